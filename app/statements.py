"""Statements that every request runs: built and compiled once, and on SQLite run by its own driver. SQLAlchemy's way around a statement
that it has met takes ten times as long as SQLite takes to run it; PostgreSQL is further away than that matters."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session

from app.database import Glance, Translated

Asked = Session | sa.Connection | Glance
Rows = Sequence[Sequence[Any]]

_DIALECT = sqlite.dialect(paramstyle="qmark")


class _Compiled:
    """A statement as SQLite's driver takes it."""

    def __init__(self, statement: Any, keys: Sequence[str] | None) -> None:
        compiled = statement.compile(dialect=_DIALECT, column_keys=keys)
        self.text = str(compiled)
        self._names: Sequence[str] = compiled.positiontup or ()
        self._fixed = {name: value for name, value in compiled.params.items() if value is not None}
        types = [column.type for column in statement.selected_columns] if isinstance(statement, sa.Select) else []
        self._readers = [type_.dialect_impl(_DIALECT).result_processor(_DIALECT, None) for type_ in types]

    def order(self, parameters: dict[str, Any]) -> list[Any]:
        """The values of the parameters, and of what stands in the statement itself, in the order of its question marks."""
        return [parameters[name] if name in parameters else self._fixed[name] for name in self._names]

    def read(self, rows: Rows) -> Rows:
        if not any(self._readers):
            return rows
        return [[each if read is None else read(each) for read, each in zip(self._readers, row, strict=True)] for row in rows]


class Statement:
    """`build` is told whether it is for SQLite, `keys` are the columns of an INSERT. Parameters are numbers, texts and bytes, which no
    driver needs to have translated."""

    def __init__(self, build: Callable[[bool], Any], keys: Sequence[str] | None = None) -> None:
        self._build, self._keys = build, keys

    def rows(self, asked: Asked, **parameters: Any) -> Rows:
        """What the statement finds, with the values that the columns' types make of it. It sees what a session has flushed."""
        connection = _connect(asked)
        if isinstance(connection, sa.Connection):
            return connection.execute(self._postgres, parameters).all()
        with Translated(self._sqlite.text, asked):
            return self._sqlite.read(self._execute(connection, parameters).fetchall())

    def partitions(self, asked: Asked, size: int, **parameters: Any) -> Iterator[Rows]:
        """The same, so many rows at once."""
        connection = _connect(asked)
        if isinstance(connection, sa.Connection):
            yield from connection.execute(self._postgres, parameters, execution_options={"yield_per": size}).partitions()
            return
        with Translated(self._sqlite.text, asked):
            cursor = self._execute(connection, parameters)
            while rows := cursor.fetchmany(size):
                yield self._sqlite.read(rows)

    def run_all(self, asked: Asked, rows: Sequence[dict[str, Any]]) -> None:
        """Runs it once for each row of parameters; it finds nothing."""
        connection = _connect(asked)
        if isinstance(connection, sa.Connection):
            connection.execute(self._postgres, rows)
            return
        with Translated(self._sqlite.text, asked):
            connection.executemany(self._sqlite.text, list(map(self._sqlite.order, rows)))

    def _execute(self, connection: sqlite3.Connection, parameters: dict[str, Any]) -> sqlite3.Cursor:
        return connection.execute(self._sqlite.text, self._sqlite.order(parameters))

    @cached_property
    def _sqlite(self) -> _Compiled:
        return _Compiled(self._build(True), self._keys)

    @cached_property
    def _postgres(self) -> Any:
        return self._build(False)


def is_on_sqlite(asked: Session | Glance) -> bool:
    return isinstance(asked, Glance) or asked.get_bind().dialect.name == "sqlite"


def _connect(asked: Asked) -> sa.Connection | sqlite3.Connection:
    """The connection of whoever asks, in his transaction; SQLite's own where that is the database."""
    if isinstance(asked, Glance):
        return asked.connection
    connection = asked if isinstance(asked, sa.Connection) else asked.connection()
    driver = connection.connection.dbapi_connection
    return driver if isinstance(driver, sqlite3.Connection) else connection
