"""How often something may be done in a minute, counted across all API processes: on Redis where the broker is one, otherwise in a
small SQLite file beside the database, which all processes of the machine share.

A bucket holds as many tokens as the limit and is refilled evenly: what is kept of it is only the moment at which it will be full again
(the generic cell rate algorithm). Where it cannot be reached, everything is let through: a limit must not become an outage.
"""

import math
import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from app.settings import Settings
from app.telemetry import log

WINDOW_SECONDS = 60.0
FILE = "rates.db"
FILE_TIMEOUT_SECONDS = 1.0
PAUSE_SECONDS = 5.0
"""How long nothing is counted after the counter could not be reached: each request would wait for it."""
PREFIX = "engram:rate:"
SCRIPT = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1e6
local window, cost = tonumber(ARGV[1]), tonumber(ARGV[2])
local left = math.min(math.max((tonumber(redis.call('GET', KEYS[1])) or 0) - now, 0), window)
if left + cost > window + 1e-6 then return {0, tostring(left)} end
redis.call('SET', KEYS[1], string.format('%.6f', now + left + cost), 'PX', math.ceil((left + cost) * 1000))
return {1, tostring(left + cost)}
"""


@dataclass(frozen=True)
class Taken:
    """What taking a token came to. `seconds_to_full` is when the whole limit is there again."""

    is_allowed: bool
    limit: int
    seconds_to_full: float

    @property
    def remaining(self) -> int:
        return max(0, int(self.limit * (1 - self.seconds_to_full / WINDOW_SECONDS) + 1e-6))

    @property
    def retry_after(self) -> int:
        """Seconds until there is a token, rounded up."""
        return max(1, math.ceil(self.seconds_to_token))

    @property
    def seconds_to_token(self) -> float:
        """For so long nobody gets one, in whichever process."""
        return max(0.0, self.seconds_to_full - WINDOW_SECONDS * (1 - 1 / self.limit))


class Rates:
    """One per process. Nothing is opened before the first limit is asked for."""

    def __init__(self, settings: Settings) -> None:
        is_redis = settings.broker_url.startswith(("redis://", "rediss://"))
        self._counter: _Counter = _RedisCounter(settings) if is_redis else _FileCounter(settings.data_dir / FILE)
        self._silent_until = 0.0

    def take(self, name: str, limit: int) -> Taken:
        """A token of the bucket `name`, which has `limit` of them a minute."""
        if time.monotonic() < self._silent_until:
            return Taken(True, limit, 0.0)
        try:
            is_allowed, seconds = self._counter.take(name, WINDOW_SECONDS / limit)
        except self._counter.away as error:
            log.warning("requests are not counted for a while", error=str(error), seconds=PAUSE_SECONDS)
            self._silent_until = time.monotonic() + PAUSE_SECONDS
            return Taken(True, limit, 0.0)
        return Taken(is_allowed, limit, seconds)

    def close(self) -> None:
        self._counter.close()


class _Counter(Protocol):
    away: tuple[type[Exception], ...]
    """What is raised where the counter cannot be reached."""

    def take(self, name: str, cost: float) -> tuple[bool, float]: ...

    def close(self) -> None: ...


class _FileCounter:
    """Without waiting for the disk (WAL and NORMAL): after a power cut the counts of a minute may be gone, and nothing else."""

    def __init__(self, path: Path) -> None:
        self.away: tuple[type[Exception], ...] = (sqlite3.Error, OSError)
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def take(self, name: str, cost: float) -> tuple[bool, float]:
        with self._lock:
            connection = self._connection = self._connection or self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                now = time.time()
                row = connection.execute("SELECT full_at FROM buckets WHERE name = ?", (name,)).fetchone()
                left = min(
                    max((row[0] if row else 0.0) - now, 0.0), WINDOW_SECONDS
                )  # a clock that was set back must not lock out
                is_allowed = left + cost <= WINDOW_SECONDS + 1e-6
                if is_allowed:
                    left += cost
                    connection.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?)", (name, now + left))
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        return is_allowed, left

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, FILE_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, full_at REAL NOT NULL) WITHOUT ROWID")
        connection.execute("DELETE FROM buckets WHERE full_at < ?", (time.time(),))
        return connection


class _RedisCounter:
    """One round trip; the script runs by itself, and by Redis' own clock."""

    def __init__(self, settings: Settings) -> None:
        import redis  # here: it takes OpenTelemetry's SDK along, which nobody without Redis needs

        self.away: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        timeout = settings.broker_timeout_seconds
        self._redis: Any = redis.Redis.from_url(settings.broker_url, socket_timeout=timeout, socket_connect_timeout=timeout)
        self._script = self._redis.register_script(SCRIPT)

    def take(self, name: str, cost: float) -> tuple[bool, float]:
        is_allowed, left = self._script(keys=[PREFIX + name], args=[WINDOW_SECONDS, cost])
        return bool(is_allowed), float(left)

    def close(self) -> None:
        self._redis.close()
