"""The ground of all rows, on both databases."""

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

import migrations
from app.database import Database
from app.tables import Workspace


def test_migrations_lead_to_exactly_the_schema_of_the_tables(database: Database) -> None:
    assert migrations.find_drift(database) is None


def test_a_column_without_a_migration_is_found(database: Database) -> None:
    with database.write() as session:
        session.execute(sa.text("ALTER TABLE workspaces ADD COLUMN surplus INTEGER"))
        session.commit()
    assert "surplus" in str(migrations.find_drift(database))


def test_upgrade_may_be_called_by_many_at_once_and_again(database: Database) -> None:
    with database.engine.connect() as connection:
        reflected = sa.MetaData()
        reflected.reflect(connection)
        reflected.drop_all(connection)
        connection.commit()
    failures: list[Exception] = []

    def upgrade() -> None:
        try:
            migrations.upgrade(database)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert migrations.is_usable(database)
    with database.read() as session:
        assert session.scalars(sa.select(Workspace.name)).all() == ["default"]


def test_timestamps_come_back_aware_and_in_utc(database: Database) -> None:
    local = datetime(2024, 3, 31, 3, 30, tzinfo=timezone(timedelta(hours=2)))
    with database.write() as session:
        session.add(Workspace(name="a", created_at=local))
        session.commit()
    with database.read() as session:
        read = session.scalars(sa.select(Workspace.created_at).where(Workspace.name == "a")).one()
    assert read == local
    assert read.tzinfo is UTC


def test_a_reading_session_sees_one_snapshot(database: Database) -> None:
    count = sa.select(sa.func.count()).select_from(Workspace)
    with database.read() as reader:
        assert reader.scalar(count) == 1
        with database.write() as writer:
            writer.add(Workspace(name="a", created_at=datetime.now(UTC)))
            writer.commit()
        assert reader.scalar(count) == 1
    with database.read() as reader:
        assert reader.scalar(count) == 2


def test_what_is_not_committed_is_rolled_back(database: Database) -> None:
    with database.write() as session:
        session.add(Workspace(name="a", created_at=datetime.now(UTC)))
        session.flush()
    with database.read() as session:
        assert session.scalars(sa.select(Workspace.name)).all() == ["default"]


def test_the_id_of_a_deleted_row_never_comes_again(database: Database) -> None:
    """What was deleted may still be loaded, or streamed to somebody, under its id: the next one may be another workspace's."""
    ids = []
    for _ in range(2):
        with database.write() as session:
            workspace = Workspace(name="a", created_at=datetime.now(UTC))
            session.add(workspace)
            session.flush()
            ids.append(workspace.id)
            session.delete(workspace)
            session.commit()
    assert ids[0] != ids[1]
    if database.dialect == "sqlite":
        with database.read() as session:
            made = session.execute(
                sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
            )
            plain = {name for name, sql in made if "AUTOINCREMENT" not in sql}
        assert plain == {"alembic_version"}


LIMIT = sa.text("SHOW idle_in_transaction_session_timeout")


def test_a_writer_that_was_stopped_does_not_hold_others_up_for_ever(database: Database) -> None:
    if database.dialect != "postgresql":
        pytest.skip("whoever is stopped in SQLite's one writer's turn holds a lock of the file")
    with database.write() as session:
        session.add(Workspace(name="held", created_at=datetime.now(UTC)))
        assert session.scalar(LIMIT) == "1min"
        session.commit()
    with database.read() as session:  # a slow client of a long answer is not
        assert session.scalar(LIMIT) == "0"
    rename = sa.update(Workspace).where(Workspace.name == "held")
    with database.write() as stopped, database.write() as other:
        stopped.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 200"))  # a minute is long for a test
        stopped.execute(rename.values(name="by who was stopped"))
        other.execute(rename.values(name="by the other"))  # waits until the server has ended the first
        other.commit()
        with pytest.raises(sa.exc.OperationalError):  # as every other lost connection
            stopped.execute(sa.text("SELECT 1"))
    with database.read() as session:
        assert session.scalar(sa.select(Workspace.name).where(Workspace.name.like("by%"))) == "by the other"
