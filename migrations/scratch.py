"""Databases that live for a moment, for checks and tests."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import sqlalchemy as sa


@contextmanager
def make_sqlite() -> Iterator[str]:
    """The URL of an empty SQLite database, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{Path(folder) / 'engram.db'}"


@contextmanager
def make_postgres(server: str, template: str = "template1") -> Iterator[str]:
    """The URL of a new database on the server, a copy of `template`; dropped afterwards, whoever is still connected."""
    name = f"engram_test_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
