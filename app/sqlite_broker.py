"""The embedded broker: a kombu transport on a SQLite file of its own.

A message is a row. Who takes it writes its process' name into it, who acknowledges it deletes it, and what a process held when it
died is visible again a second later. Messages are hints, so a file that was deleted or damaged is begun anew. Consumers have to
acknowledge: there is no fanout, no priority and no `no_ack`.
"""

import sqlite3
import threading
import time
from pathlib import Path
from queue import Empty
from typing import Any
from urllib.parse import unquote, urlsplit

from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.utils.json import dumps, loads

from app.processes import is_running, name_process
from app.settings import EMBEDDED_SCHEME
from app.telemetry import log

POLL_SECONDS = 0.075
"""A message waits half of this, in the median; an idle consumer then uses under half a percent of a core."""
DRAIN_SECONDS = 0.5
"""Celery looks whether it is to stop only between two drains, and would let one take 2 s."""
LOST_OWNER_SECONDS = 1.0
BUSY_SECONDS = 10.0
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
SCHEMA = """
PRAGMA synchronous = NORMAL;
PRAGMA journal_size_limit = 1048576;
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, tag TEXT NOT NULL UNIQUE, message TEXT NOT NULL, owner TEXT
);
CREATE INDEX IF NOT EXISTS ix_messages_waiting ON messages (queue, id) WHERE owner IS NULL;
CREATE INDEX IF NOT EXISTS ix_messages_held ON messages (owner) WHERE owner IS NOT NULL;
"""


def register() -> None:
    """Makes `sqlitequeue:///PATH` a broker URL that kombu knows (an absolute path begins with a fourth slash)."""
    TRANSPORT_ALIASES[EMBEDDED_SCHEME] = f"{__name__}:Transport"


def find_path(url: str) -> Path:
    """The file behind `sqlitequeue:///PATH`."""
    return Path(unquote(urlsplit(url).path[1:]))


class QueueFile:
    """The messages of all queues. One connection, shared by the threads of this process one statement at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._next_look = 0.0

    def put(self, queue: str, tag: str, message: str) -> None:
        self._execute("INSERT INTO messages (queue, tag, message) VALUES (?, ?, ?)", queue, tag, message)

    def has_waiting(self) -> bool:
        """Whether anything waits, in any queue: all that an idle consumer asks. Reading takes no lock, so it disturbs nobody."""
        self._release_lost()
        return bool(self._execute("SELECT 1 FROM messages WHERE owner IS NULL LIMIT 1")[0])

    def take(self, queue: str) -> str | None:
        """The oldest waiting message, now held by this process; None when there is none."""
        oldest = "SELECT tag, message FROM messages WHERE queue = ? AND owner IS NULL ORDER BY id LIMIT 1"
        while rows := self._execute(oldest, queue)[0]:
            tag, message = rows[0]
            if self._execute("UPDATE messages SET owner = ? WHERE tag = ? AND owner IS NULL", name_process(), tag)[1]:
                return str(message)
        return None

    def delete(self, tag: str) -> None:
        self._execute("DELETE FROM messages WHERE tag = ?", tag)

    def release(self, tag: str) -> None:
        """Gives a held message back to its place in the queue."""
        self._execute("UPDATE messages SET owner = NULL WHERE tag = ?", tag)

    def count_waiting(self, queue: str) -> int:
        return int(self._execute("SELECT count(*) FROM messages WHERE queue = ? AND owner IS NULL", queue)[0][0][0])

    def purge(self, queue: str) -> int:
        return self._execute("DELETE FROM messages WHERE queue = ? AND owner IS NULL", queue)[1]

    def open(self) -> None:
        """Opens or creates the file; raises sqlite3.Error or OSError when that cannot be."""
        with self._lock:
            self._connect()

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _release_lost(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOST_OWNER_SECONDS
        for (owner,) in self._execute("SELECT DISTINCT owner FROM messages WHERE owner IS NOT NULL")[0]:
            if not is_running(owner):  # nor is it after a reboot, or when its container is gone
                self._execute("UPDATE messages SET owner = NULL WHERE owner = ?", owner)

    def _execute(self, statement: str, *parameters: object) -> tuple[list[Any], int]:
        """Rows and row count of one statement, which is its own transaction."""
        with self._lock:
            try:
                cursor = self._connect().execute(statement, parameters)
                return cursor.fetchall(), cursor.rowcount
            except sqlite3.Error:
                self._disconnect()
                raise

    def _connect(self) -> sqlite3.Connection:
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            inode = 0
        if self._connection is not None and inode == self._inode != 0:
            return self._connection
        self._disconnect()  # the file was deleted or replaced: nobody else would read what is written to the old one
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            if (
                connection.execute("PRAGMA page_count").fetchone()[0] == 0
            ):  # on a file that is in use it would wait for whoever writes
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # a long queue's pages can be given back later
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            connection.close()
            if error.sqlite_errorcode & 0xFF not in DAMAGED:
                raise
            found = str(error)
        if found != "ok":  # hints are not worth a repair
            log.error("the embedded queue's file is damaged; a new one is begun", kept_as=f"{self._path}.damaged", found=found)
            connection.close()
            self._path.replace(f"{self._path}.damaged")
            return self._connect()
        self._connection, self._inode = connection, self._path.stat().st_ino
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class QoS(virtual.QoS):
    """What an acknowledgement does to the row."""

    def ack(self, delivery_tag: str) -> None:
        super().ack(delivery_tag)
        self.channel.file.delete(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        super().reject(delivery_tag, requeue)  # to requeue, it calls the channel's _restore
        if not requeue:
            self.channel.file.delete(delivery_tag)


class Channel(virtual.Channel):
    """kombu's verbs in terms of the file."""

    QoS = QoS

    def __init__(self, connection: "Transport", **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.file = connection.file

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.file.put(queue, message["properties"]["delivery_tag"], dumps(message))

    def _poll(self, cycle: Any, callback: Any, timeout: float | None = None) -> None:
        if not self.file.has_waiting():
            raise Empty
        super()._poll(cycle, callback, timeout)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        message = self.file.take(queue)
        if message is None:
            raise Empty
        return loads(message)

    def _restore(self, message: virtual.Message) -> None:
        self.file.release(message.delivery_tag)

    def _size(self, queue: str) -> int:
        return self.file.count_waiting(queue)

    def _purge(self, queue: str) -> int:
        return self.file.purge(queue)


class Transport(virtual.Transport):
    """One connection to the file."""

    Channel = Channel
    can_parse_url = True
    driver_type = driver_name = "sqlite"
    polling_interval = POLL_SECONDS
    connection_errors = (*virtual.Transport.connection_errors, sqlite3.Error, OSError)  # type: ignore[assignment]  # wider

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.file = QueueFile(find_path(client.hostname))

    def driver_version(self) -> str:
        return sqlite3.sqlite_version

    def establish_connection(self) -> "Transport":
        self.file.open()
        super().establish_connection()
        return self

    def close_connection(self, connection: "Transport") -> None:
        super().close_connection(connection)
        self.file.close()

    def drain_events(self, connection: "Transport", timeout: float | None = None, **kwargs: Any) -> None:
        super().drain_events(connection, timeout=timeout and min(timeout, DRAIN_SECONDS), **kwargs)
