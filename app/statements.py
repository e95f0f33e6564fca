"""Statements that every request runs: built and compiled once, and on SQLite run by its own driver. SQLAlchemy's way around a statement
that it has met takes ten times as long as SQLite takes to run it; PostgreSQL is further away than that matters."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.database import Glance, Translated

Asked = Session | sa.Connection | Glance
Rows = Sequence[Sequence[Any]]
Block = Mapping[str, Sequence[Any]]
"""Some rows of parameters, as columns of one length."""

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

    def order_all(self, block: Block, same: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
        """The same for each row of a block; `same` are those that all rows share."""
        common = {**self._fixed, **same}
        return zip(*(block[name] if name in block else repeat(common[name]) for name in self._names), strict=False)

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

    def run_all(self, asked: Asked, blocks: Iterable[Block], **same: Any) -> None:
        """Runs it for all rows of the blocks; `same` are the parameters that all rows share. It finds nothing.

        SQLite runs it once for each row, PostgreSQL once for a block, whose columns are arrays there (`columns_of` is for both): it works
        on one while the next is made."""
        connection = _connect(asked)
        if isinstance(connection, sa.Connection):
            self._send_all(connection, blocks, same)
            return
        with Translated(self._sqlite.text, asked):
            for block in blocks:
                connection.executemany(self._sqlite.text, self._sqlite.order_all(block, same))

    def _send_all(self, connection: sa.Connection, blocks: Iterable[Block], same: Mapping[str, Any]) -> None:
        driver: Any = connection.connection.driver_connection
        errors = connection.dialect.loaded_dbapi.Error
        try:
            with driver.pipeline():
                for block in blocks:
                    connection.execute(self._postgres, {**block, **same})
        except errors as error:  # what is told when the pipeline ends is the driver's own
            raise sa.exc.DBAPIError.instance(str(self._postgres), None, error, errors, dialect=connection.dialect) from error

    def _execute(self, connection: sqlite3.Connection, parameters: dict[str, Any]) -> sqlite3.Cursor:
        return connection.execute(self._sqlite.text, self._sqlite.order(parameters))

    @cached_property
    def _sqlite(self) -> _Compiled:
        return _Compiled(self._build(True), self._keys)

    @cached_property
    def _postgres(self) -> Any:
        return self._build(False)


def columns_of(is_sqlite: bool, columns: Mapping[str, InstrumentedAttribute[Any]]) -> dict[str, sa.ColumnElement[Any]]:
    """Where a statement for `Statement.run_all` has the values of a row, by the names that they have in a block."""
    if is_sqlite:
        return {name: sa.bindparam(name, type_=column.type) for name, column in columns.items()}
    arrays = (sa.bindparam(name, type_=ARRAY(column.type)) for name, column in columns.items())
    rows = sa.func.unnest(*arrays).table_valued(*columns).render_derived()
    return {name: rows.c[name] for name in columns}


def is_on_sqlite(asked: Session | Glance) -> bool:
    return isinstance(asked, Glance) or asked.get_bind().dialect.name == "sqlite"


def _connect(asked: Asked) -> sa.Connection | sqlite3.Connection:
    """The connection of whoever asks, in his transaction; SQLite's own where that is the database."""
    if isinstance(asked, Glance):
        return asked.connection
    connection = asked if isinstance(asked, sa.Connection) else asked.connection()
    driver = connection.connection.dbapi_connection
    return driver if isinstance(driver, sqlite3.Connection) else connection
