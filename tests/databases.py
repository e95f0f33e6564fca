"""A PostgreSQL database that one test after the other has for itself."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
from psycopg import sql

from app.tables import Workspace
from migrations import scratch

SHAPE = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE n.nspname = 'public' AND a.attnum > 0 ORDER BY 1, a.attnum
""", """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid > 0 ORDER BY 1, 2
""", """
SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2
""", """
SELECT datconnlimit, (SELECT array_agg(setconfig) FROM pg_db_role_setting s WHERE s.setdatabase = d.oid)
FROM pg_database d WHERE datname = current_database()
"""  # fmt: skip
"""Tables, columns, indexes, constraints, and what was set for the database: all that a test might change beside rows."""
OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
TABLES = [*(table.name for table in reversed(Workspace.metadata.sorted_tables)), "alembic_version"]
"""Those that refer before those that are referred to."""


class Lent:
    """Emptied after each test, whoever is still connected, and made anew if a test changed more than rows.

    To make and drop one for each test costs the disk ten times as much as to empty it.
    """

    def __init__(self, server: str, template: str) -> None:
        self._server, self._template = server, template
        self._made = ExitStack()
        self._url: str | None = None
        self._shape: Any = None
        self._restore = ""

    @contextmanager
    def lend(self) -> Iterator[str]:
        """The URL of a migrated database without a row of anybody's."""
        if self._url is None:
            self._url = self._made.enter_context(scratch.make_postgres(self._server, self._template))
            with psycopg.connect(self._url) as connection:
                self._shape, self._restore = describe(connection), write_restore(connection)
        yield self._url
        if not self._empty(self._url):
            self.close()

    def close(self) -> None:
        self._made.close()
        self._url = None

    def _empty(self, url: str) -> bool:
        """Whether it is as it was made."""
        with suppress(psycopg.Error), psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '5s'; SET synchronous_commit = off")
            connection.execute(OTHERS)
            if describe(connection) != self._shape:
                return False
            connection.execute(self._restore)
            return True
        return False


def describe(connection: "psycopg.Connection[Any]") -> Any:
    return [connection.execute(query).fetchall() for query in SHAPE]


def write_restore(connection: "psycopg.Connection[Any]") -> str:
    """The statements that bring every row and every sequence back to what they are now."""
    found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert sorted(TABLES) == sorted(name for (name,) in found)
    statements = [sql.SQL("DELETE FROM {}").format(sql.Identifier(table)) for table in TABLES]
    for table in reversed(TABLES):
        for row in connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))).fetchall():
            values = sql.SQL(", ").join(map(sql.Literal, row))
            statements.append(sql.SQL("INSERT INTO {} VALUES ({})").format(sql.Identifier(table), values))
    for (name,) in connection.execute("SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'").fetchall():
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(name))
        state = sql.SQL(", ").join(map(sql.Literal, connection.execute(query).fetchone() or ()))
        statements.append(sql.SQL("SELECT setval({}, {})").format(sql.Literal(name), state))
    return sql.SQL("; ").join(statements).as_string(connection)
