"""The ground of all rows: engine, sessions, UTC timestamps, constraint names, SQLite's pragmas."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session

BUSY_TIMEOUT_SECONDS = 30
"""SQLite has one writer: how long another waits for its turn."""
SILENCE = {"keepalives_idle": 5, "keepalives_interval": 3, "keepalives_count": 3, "tcp_user_timeout": 10_000}
"""libpq's: a server that is not heard of is given up after some ten seconds. The system's own limits are up to two hours."""
SILENCE_THERE = {"tcp_keepalives_idle": 10, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3, "tcp_user_timeout": 15_000}
"""The same at the server's end, where a client that vanished in a transaction holds locks for as long."""
STOPPED_SECONDS = 60
"""One that was stopped in a transaction that writes, as by a debugger, has a system that still answers for it: it is given up after this."""
TIDY_SECONDS = 1.0
"""How long tidying waits for others, and so how long a writer may have to wait for it."""
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
DISK_FULL = "53100"
"""PostgreSQL's word for it."""
TIDY_PAGES = 256
"""Free pages given back in one transaction: a megabyte."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Aware in, aware UTC out, on both databases; SQLite keeps no zone, so there the UTC wall time is stored."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Every constraint has a name, so that a migration can change it."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: UtcDateTime(),
        dict[str, Any]: sa.JSON(none_as_null=True),
        list[Any]: sa.JSON(none_as_null=True),
        int: sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
    }


class Translated:
    """Around what SQLite's own driver is asked: its errors become SQLAlchemy's, by which the house knows them. What a glance would have
    to wait for is not there at a glance."""

    def __init__(self, text: str, asked: object) -> None:
        self._text, self._asked = text, asked

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, sqlite3.OperationalError) and isinstance(self._asked, Glance):
            raise NotAtAGlanceError(str(error)) from error
        if isinstance(error, sqlite3.Error):
            raise getattr(sa.exc, type(error).__name__)(self._text, None, error) from error


class NotAtAGlanceError(Exception):
    """What was asked of a glance has to be read properly."""


class Glance:
    """What the event loop sees of SQLite's file: for the statements of app/statements.py, in one snapshot. It stands where a session
    would, and whoever asks it for anything else is told so."""

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self._connection = connection

    @property
    def connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise NotAtAGlanceError("connection")
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")  # which waits for nothing yet
        return self._connection

    def __getattr__(self, name: str) -> Any:
        raise NotAtAGlanceError(name)


class Database:
    """One engine; `read()` and `write()` give sessions that roll back what was not committed."""

    def __init__(self, url: str) -> None:
        target = sa.make_url(url)
        if target.drivername == "postgresql":
            target = target.set(drivername="postgresql+psycopg")
        if target.get_backend_name() == "sqlite":
            if (file := find_sqlite_file(target)) is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
            self.engine = sa.create_engine(target, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
            event.listen(self.engine, "connect", _prepare_sqlite)
            _Turns().listen(self.engine)
        else:
            self.engine = sa.create_engine(target, pool_pre_ping=True, connect_args={"connect_timeout": 5, **SILENCE})
            event.listen(self.engine, "connect", _prepare_postgres)
            event.listen(self.engine, "begin", _limit_writer)
            event.listen(self.engine, "handle_error", _tell_lost, retval=True)
        self._file = self.sqlite_path
        self._watch: sqlite3.Connection | None = None
        self._write_engine = self.engine.execution_options(immediate=True)
        self._read_engine = self._look_engine = self.engine
        if self.dialect == "postgresql":  # SQLite's transactions see one snapshot anyway
            self._read_engine = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._look_engine = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def dialect(self) -> str:
        return self.engine.dialect.name

    @property
    def sqlite_path(self) -> Path | None:
        """The file, where there is one."""
        return find_sqlite_file(self.engine.url)

    def stamp(self) -> int | None:
        """A number that changes with every commit of any process: what was read after it was taken stands as long as it is the same.
        Takes a few microseconds and waits for nobody, so the event loop may ask, and only the loop. None where that is not known:
        PostgreSQL has nothing like it, and a SQLite file may be busy."""
        try:
            watch = self._open_watch()
            return None if watch is None else int(watch.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.OperationalError:
            return None

    @contextmanager
    def glance(self) -> Iterator[Glance]:
        """For the loop, and only for it: a few rows whose pages are in memory already, in a few microseconds each, where a thread and a
        session take a thousand. In SQLite's WAL mode readers wait for nobody. What cannot be read so raises NotAtAGlanceError."""
        watch = None
        try:
            watch = self._open_watch()
            yield Glance(watch)
        except sqlite3.OperationalError as error:
            raise NotAtAGlanceError(str(error)) from error
        finally:
            if watch is not None and watch.in_transaction:
                watch.rollback()

    def _open_watch(self) -> sqlite3.Connection | None:
        if self._watch is None and self._file is not None:
            self._watch = sqlite3.connect(self._file, timeout=0, isolation_level=None, check_same_thread=False)
        return self._watch

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one snapshot and writes nothing."""
        with Session(self._read_engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def look(self) -> Iterator[sa.Connection]:
        """A connection for one short statement that every request makes: it costs half of what a session does."""
        with self._look_engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that takes SQLite's write lock at once: a read that later writes could not be upgraded. The caller commits."""
        with Session(self._write_engine, expire_on_commit=False) as session:
            yield session

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self.engine.dispose()


def is_disk_full(error: BaseException) -> bool:
    """Whether the database had no room left for what was to be written."""
    cause = getattr(error, "orig", error)
    if isinstance(cause, sqlite3.Error):  # a journal that cannot grow is told as an I/O error
        code = getattr(cause, "sqlite_errorcode", 0)
        return code in NO_ROOM
    return getattr(cause, "sqlstate", None) == DISK_FULL  # psycopg's, which SQLite's parts do not load


def find_sqlite_file(url: str | sa.URL) -> Path | None:
    """The file that such a URL names, whether it is there or not; None where it names none, or one in SQLite's own way (`file:`)."""
    with suppress(sa.exc.ArgumentError):
        target = sa.make_url(url)
        name = target.database or ":memory:"
        if target.get_backend_name() == "sqlite" and not name.startswith((":memory:", "file:")):
            return Path(name)
    return None


def utc_now() -> datetime:
    return datetime.now(UTC)


def database_now(session: Session) -> datetime:
    """The clock that leases are counted by: PostgreSQL's own, since its clients' clocks differ; one host has one."""
    if session.get_bind().dialect.name == "postgresql":
        now: datetime = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return now.astimezone(UTC)
    return utc_now()


def insert_or_ignore(session: Session, table: type[Base], rows: list[dict[str, Any]]) -> None:
    """Inserts the rows that break no unique constraint; the others are there already, by another client at the same instant."""
    session.execute(_insert(session, table).on_conflict_do_nothing(), rows)


def add_or_sum(session: Session, table: type[Base], key: dict[str, Any], numbers: dict[str, float]) -> None:
    """Inserts the row of `key`, which the table holds once, or adds `numbers` to those it has; right whoever else does so meanwhile."""
    insert = _insert(session, table).values(**key, **numbers)
    sums = {name: getattr(table, name) + insert.excluded[name] for name in numbers}
    session.execute(insert.on_conflict_do_update(index_elements=list(key), set_=sums))


def _insert(session: Session, table: type[Base]) -> Any:
    return (postgresql if session.get_bind().dialect.name == "postgresql" else sqlite).insert(table)


def _limit_writer(connection: sa.Connection) -> None:
    """Of readers, who hold nobody up, a slow client may take what he needs."""
    if connection.get_execution_options().get("immediate"):
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{STOPPED_SECONDS}s'")


def _tell_lost(context: sa.engine.ExceptionContext) -> Exception | None:
    """A connection that the server ended for its silence is told as any other that was lost; psycopg calls it an internal error."""
    if context.is_disconnect and isinstance(context.sqlalchemy_exception, sa.exc.InternalError):
        lost: Any = context.original_exception
        return sa.exc.OperationalError(context.statement, None, lost, connection_invalidated=True)
    return None


def _prepare_postgres(connection: Any, _record: object) -> None:
    from psycopg.types.array import ListBinaryDumper  # not loaded where the database is SQLite

    connection.adapters.register_dumper(list, ListBinaryDumper)  # of itself psycopg writes lists as text, at ten times the cost
    with connection.cursor() as cursor:
        for name, value in SILENCE_THERE.items():
            cursor.execute(f"SET {name} = {value}")
    connection.commit()


def tidy_sqlite(path: Path) -> int:
    """Gives the file's free pages back, empties its journal and lets the planner look at what has changed; the bytes given back.

    In small steps, each of which waits for others but a moment. Raises sqlite3.OperationalError when the file is in use for longer.
    """
    journal = path.with_name(f"{path.name}-wal")
    before = _size(path) + _size(journal)
    with closing(sqlite3.connect(path, TIDY_SECONDS, isolation_level=None)) as connection:
        connection.execute("PRAGMA analysis_limit = 400")
        connection.execute("PRAGMA optimize(0x10002)").fetchall()  # of all tables: this connection has queried none itself
        while (free := connection.execute("PRAGMA freelist_count").fetchone()[0]) > 0:
            connection.execute(f"PRAGMA incremental_vacuum({TIDY_PAGES})").fetchall()  # it works row by row, as it is read
            if connection.execute("PRAGMA freelist_count").fetchone()[0] >= free:
                break  # the file was made without auto_vacuum: only a VACUUM by hand gives its pages back
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return max(0, before - _size(path) - _size(journal))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN is off: `_begin_sqlite` decides which one
    cursor = connection.cursor()
    if cursor.execute("PRAGMA page_count").fetchone()[0] == 0:  # on a file that is in use it would wait for whoever writes
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")  # pages that were freed can be given back later
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # an answered write is on disk, whatever stops
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA journal_size_limit = 67108864")
    cursor.close()


class _Turns:
    """Lets the writers of this process go one after the other. SQLite itself lets those who wait look again after ever longer pauses:
    whoever comes anew is there first, and of many who write at once some waited for ten seconds."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._holder: sa.Connection | None = None

    def listen(self, engine: sa.Engine) -> None:
        event.listen(engine, "begin", self._begin)
        for ended in ("commit", "rollback"):
            event.listen(engine, ended, self._end)

    def _begin(self, connection: sa.Connection) -> None:
        if not connection.get_execution_options().get("immediate"):
            _run(connection, "BEGIN")
            return
        if self._turn.acquire(timeout=BUSY_TIMEOUT_SECONDS):  # else as other processes do, without a turn
            self._holder = connection
        try:
            _run(connection, "BEGIN IMMEDIATE")
        except BaseException:
            self._end(connection)
            raise

    def _end(self, connection: sa.Connection) -> None:
        if self._holder is connection:
            self._holder = None
            self._turn.release()


def _run(connection: sa.Connection, text: str) -> None:
    """By the driver: SQLAlchemy would take ten times as long."""
    driver: Any = connection.connection.dbapi_connection
    with Translated(text, connection):
        driver.execute(text)
