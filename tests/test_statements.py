"""Statements that go to SQLite's driver find what SQLAlchemy finds, on both databases; what a glance may see, and what not."""

import sqlite3
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.database import Database, NotAtAGlanceError, utc_now
from app.statements import Statement, columns_of
from app.tables import Workspace

_NAMED = Statement(
    lambda _: sa.select(Workspace.name, Workspace.created_at, Workspace.limits).where(Workspace.name >= sa.bindparam("least"))
)


def _rename(is_sqlite: bool) -> Any:
    row = columns_of(is_sqlite, {"old": Workspace.name, "new": Workspace.name})
    return sa.update(Workspace).where(Workspace.name == row["old"]).values(name=row["new"])


_RENAME = Statement(_rename)


def add(session: Session, *names: str) -> None:
    session.add_all([Workspace(name=name, created_at=utc_now(), limits={"series": 3}) for name in names])
    session.flush()


def test_rows_are_those_of_sqlalchemy(database: Database) -> None:
    with database.write() as session:
        add(session, "x", "y", "z")
        expected = session.execute(_NAMED._build(False).order_by(Workspace.name), {"least": "x"}).all()
        found = sorted(map(tuple, _NAMED.rows(session, least="x")))
        assert found == list(map(tuple, expected))
        assert found[0][1].tzinfo is not None
        assert [len(rows) for rows in _NAMED.partitions(session, 2, least="x")] == [2, 1]
        _RENAME.run_all(session, [{"old": ["x"], "new": ["p"]}, {"old": ["y"], "new": ["q"]}])
        assert sorted(row[0] for row in _NAMED.rows(session, least="p")) == ["p", "q", "z"]
        session.rollback()
        assert not _NAMED.rows(session, least="p")


@pytest.mark.parametrize(
    "blocks", [[{"old": ["x"], "new": ["y"]}], [{"old": ["x"], "new": ["p"]}, {"old": ["y"], "new": ["p"]}]]
)
def test_errors_are_those_of_sqlalchemy(database: Database, blocks: list[dict[str, list[str]]]) -> None:
    with database.write() as session:
        add(session, "x", "y")
        with pytest.raises(sa.exc.IntegrityError):
            _RENAME.run_all(session, blocks)
    with database.read() as session:
        assert not _NAMED.rows(session, least="p")


def test_a_server_that_goes_away_is_told_as_sqlalchemy_would(database: Database) -> None:
    if database.dialect != "postgresql":
        pytest.skip("SQLite has no server")
    with database.write() as session:
        add(session, "x")
        server = session.scalar(sa.text("SELECT pg_backend_pid()"))
        with database.write() as other:
            other.execute(sa.text("SELECT pg_terminate_backend(:server, 5000)"), {"server": server})
        with pytest.raises(sa.exc.OperationalError):
            _RENAME.run_all(session, [{"old": ["x"], "new": ["p"]}])
    with database.read() as session:  # the broken connection is not used again
        assert not _NAMED.rows(session, least="p")


def test_a_glance_sees_one_snapshot_and_leaves_no_transaction(database: Database) -> None:
    if database.dialect != "sqlite":
        with pytest.raises(NotAtAGlanceError), database.glance() as glance:
            _NAMED.rows(glance, least="x")
        return
    with database.glance() as glance:
        assert not _NAMED.rows(glance, least="x")
        with database.write() as session:
            add(session, "x")
            session.commit()
        assert not _NAMED.rows(glance, least="x")
    with database.glance() as glance:
        assert len(_NAMED.rows(glance, least="x")) == 1
        with pytest.raises(NotAtAGlanceError):
            glance.execute("whatever a session could do")
    assert database._watch is not None
    assert not database._watch.in_transaction


def test_what_waits_for_others_is_not_at_a_glance(database: Database) -> None:
    if database.dialect != "sqlite" or database.sqlite_path is None:
        pytest.skip("PostgreSQL has no glances")
    with sqlite3.connect(database.sqlite_path, isolation_level=None) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with database.glance() as glance:
            with pytest.raises(NotAtAGlanceError):  # and nothing that a request would be answered with
                _NAMED.rows(glance, least="x")
            with pytest.raises(NotAtAGlanceError):
                list(_NAMED.partitions(glance, 5, least="x"))
