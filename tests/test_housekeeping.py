"""What is removed when it is old, what never is, in small transactions and by one at a time; on both databases."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from app import housekeeping, sqlite_broker
from app.database import Database, tidy_sqlite, utc_now
from app.registry import service as registry
from app.settings import Settings
from app.tables import Artifact, Base, Housekeeping, IdempotencyKey, Model, Scheduler, Training, TrainingEvent, Version, Worker
from app.training import presence, service
from tests.training.test_claims import add_trainings

GOING_ON = threading.Event()


def keep(database: Database, settings: Settings) -> dict[str, int] | None:
    return housekeeping.keep_house(database, settings, "me", GOING_ON)


def make_due(database: Database) -> None:
    with database.write() as session:
        session.execute(sa.update(Housekeeping).values(started_at=utc_now() - timedelta(days=1)))
        session.commit()


def read_row(database: Database) -> Housekeeping:
    with database.read() as session:
        return session.scalars(sa.select(Housekeeping)).one()


def count(database: Database, table: type[Base]) -> int:
    with database.read() as session:
        return session.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


@contextmanager
def note_deletes(database: Database) -> Iterator[list[int]]:
    """How many rows each DELETE took, one entry for each transaction."""
    rows: list[int] = []

    def note(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE"):
            rows.append(max(cursor.rowcount, 0))

    event.listen(database.engine, "after_cursor_execute", note)
    try:
        yield rows
    finally:
        event.remove(database.engine, "after_cursor_execute", note)


def test_it_is_done_when_it_is_due_and_its_row_says_so(database: Database, settings: Settings) -> None:
    removed = keep(database, settings)
    assert removed is not None
    row = read_row(database)
    assert (row.owner, row.removed) == ("me", removed)
    assert row.started_at is not None
    assert row.finished_at is not None
    assert row.started_at <= row.finished_at
    assert keep(database, settings) is None, "an hour has not gone by"
    make_due(database)
    assert keep(database, settings) is not None


def test_of_many_who_look_at_once_one_does_it(database: Database, settings: Settings) -> None:
    done: list[dict[str, int] | None] = []
    threads = [threading.Thread(target=lambda: done.append(keep(database, settings))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 6
    assert sum(removed is not None for removed in done) == 1


def test_one_that_began_while_others_waited_for_its_row_is_the_one(database: Database, settings: Settings) -> None:
    for ahead, is_due in ((timedelta(seconds=1), False), (timedelta(hours=1), True)):
        with database.write() as session:
            session.execute(sa.update(Housekeeping).values(started_at=utc_now() + ahead))
            session.commit()
        assert (keep(database, settings) is not None) is is_due


def add_versions(session: Session, model: Model, training: Training, numbers: range) -> None:
    for number in numbers:
        version = Version(
            workspace_id=1,
            model_id=model.id,
            dataset_id=model.dataset_id,
            training_id=training.id,
            number=number,
            horizon=3,
            cutoff_step=10,
            config={},
            data={},
            metrics={},
            warnings=[],
            code_version="0",
            created_at=utc_now(),
        )
        session.add(version)
        session.flush()
        session.add(Artifact(workspace_id=1, version_id=version.id, sha256="", size_bytes=3, data=b"abc"))
    session.flush()


def test_old_versions_go_but_none_that_an_alias_points_to(database: Database, tmp_path: Path, database_url: str) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database_url, kept_versions=3)
    with database.write() as session:
        add_trainings(session, 1)
        training = session.scalars(sa.select(Training)).one()
        training.metrics = {"skill": 0.5}
        model = session.scalars(sa.select(Model)).one()
        other = Model(workspace_id=1, dataset_id=model.dataset_id, name="other", horizon=3, created_at=utc_now())
        session.add(other)
        session.flush()
        add_versions(session, model, training, range(1, 26))
        add_versions(session, other, training, range(1, 4))
        registry.set_alias(session, model, "champion", registry.get_version(session, model, 2))
        registry.set_alias(session, model, "candidate", registry.get_version(session, model, 7))
        session.commit()
    with note_deletes(database) as deletes:
        removed = keep(database, settings)
    assert removed is not None
    assert removed["versions"] == 20
    assert max(deletes) <= housekeeping.VERSIONS_AT_ONCE
    with database.read() as session:
        numbers = sa.select(Model.name, Version.number).join(Version, Version.model_id == Model.id)
        kept = sorted(tuple(row) for row in session.execute(numbers))
        assert kept == [
            ("m-auto", 2),
            ("m-auto", 7),
            *(("m-auto", n) for n in (23, 24, 25)),
            *(("other", n) for n in (1, 2, 3)),
        ]
        assert session.scalars(sa.select(Training.metrics)).one() == {"skill": 0.5}, "its training keeps what it scored"
    assert count(database, Artifact) == 8


def test_old_learning_curves_go_and_each_training_keeps_its_end(database: Database, settings: Settings) -> None:
    with database.write() as session:
        add_trainings(session, 3)
        old, young, running = session.scalars(sa.select(Training).order_by(Training.id)).all()
        for training in (old, young, running):
            service.append_events(session, training.id, 1, "progress", [{"step": step} for step in range(700)])
        for training in (old, young):
            service.end(session, training, "failed")
        old.finished_at = utc_now() - timedelta(days=settings.kept_event_days + 1)
        session.commit()
        ids = [old.id, young.id, running.id]
    with note_deletes(database) as deletes:
        removed = keep(database, settings)
    assert removed is not None
    assert removed["events"] == 700
    assert max(deletes) <= housekeeping.ROWS_AT_ONCE < 700
    with database.read() as session:
        left = dict(
            session.execute(sa.select(TrainingEvent.training_id, sa.func.count()).group_by(TrainingEvent.training_id)).all()
        )
        assert left == dict(zip(ids, (1, 701, 700), strict=True))
        assert [one.kind for one in service.read_events(session, ids[0], after=0)] == ["failed"]


def test_old_keys_and_parts_that_are_gone_go(database: Database, settings: Settings) -> None:
    now = utc_now()
    with database.write() as session:
        for hours in (1, 23, 25, 100):
            session.add(
                IdempotencyKey(
                    workspace_id=1, key=str(hours), request_sha256="", created_at=now - timedelta(hours=hours), status=200
                )
            )
        for name in ("here", "gone"):
            presence.register_worker(session, name, ("cpu",), "boot/1/1")
            presence.register_scheduler(session, name)
        for part in (Worker, Scheduler):
            session.execute(sa.update(part).where(part.name == "gone").values(seen_at=now - timedelta(hours=25)))
        session.commit()
    removed = keep(database, settings)
    assert removed is not None
    assert (removed["idempotency_keys"], removed["workers"], removed["schedulers"]) == (2, 1, 1)
    with database.read() as session:
        assert sorted(session.scalars(sa.select(IdempotencyKey.key))) == ["1", "23"]
        assert session.scalars(sa.select(Worker.name)).all() == session.scalars(sa.select(Scheduler.name)).all() == ["here"]


def test_a_stop_is_heard_and_the_row_does_not_say_finished(database: Database, settings: Settings) -> None:
    stopping = threading.Event()
    stopping.set()
    housekeeping.keep_house(database, settings, "me", stopping)
    row = read_row(database)
    assert row.started_at is not None
    assert row.finished_at is None


def test_the_files_of_sqlite_give_back_what_was_removed(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    database = Database(settings.database_url)
    with database.write() as session:
        session.execute(sa.text("CREATE TABLE filler (data BLOB)"))
        session.execute(sa.text("INSERT INTO filler VALUES (zeroblob(8000000))"))
        session.commit()
        session.execute(sa.text("DELETE FROM filler"))
        session.commit()
    path = tmp_path / "engram.db"
    assert tidy_sqlite(path) > 8_000_000
    assert path.stat().st_size < 1_000_000
    assert tidy_sqlite(path) == 0
    database.close()

    queue = sqlite_broker.QueueFile(sqlite_broker.find_path(settings.broker_url))
    for number in range(50):
        queue.put("cpu", str(number), "x" * 100_000)
    queue.purge("cpu")
    assert tidy_sqlite(tmp_path / "queue.db") > 4_000_000
    queue.put("cpu", "after", "works on")
    assert queue.take("cpu") == "works on"
    queue.close()


def test_a_file_in_use_is_left_for_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.database.TIDY_SECONDS", 0.05)
    database = Database(Settings(data_dir=tmp_path).database_url)
    with database.write() as session:
        session.execute(sa.text("CREATE TABLE filler (data BLOB)"))
        session.execute(sa.text("INSERT INTO filler VALUES (zeroblob(80000))"))
        session.execute(sa.text("DELETE FROM filler"))
        session.commit()
        session.execute(sa.text("INSERT INTO filler VALUES (1)"))
        with pytest.raises(sqlite3.OperationalError):
            tidy_sqlite(tmp_path / "engram.db")
    database.close()
