"""Who may work on a training, on both databases."""

import math
import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import __version__
from app.database import Database, database_now, utc_now
from app.processes import name_process
from app.settings import Settings
from app.tables import Dataset, Model, Training, TrainingEvent, TrainingTotal, Worker
from app.training import claims, presence, service


def add_trainings(session: Session, count: int, *, device: str = "auto") -> list[str]:
    now = utc_now()
    dataset = Dataset(workspace_id=1, name=f"d-{device}", freq="D", phase_us=0, time_zone="UTC", created_at=now, updated_at=now)
    session.add(dataset)
    session.flush()
    model = Model(workspace_id=1, dataset_id=dataset.id, name=f"m-{device}", horizon=3, created_at=now)
    session.add(model)
    session.flush()
    ids = [f"{device}-{number}" for number in range(count)]
    for public_id in ids:
        session.add(
            Training(
                workspace_id=1,
                public_id=public_id,
                model_id=model.id,
                dataset_id=dataset.id,
                request={"horizon": 3},
                cutoff_step=10,
                status="queued",
                device_wanted=device,
                created_at=now,
            )
        )
        session.flush()
    session.commit()
    return ids


def read(database: Database, public_id: str) -> Training:
    with database.read() as session:
        return session.scalars(sa.select(Training).where(Training.public_id == public_id)).one()


def take(database: Database, settings: Settings, owner: str, devices: tuple[str, ...] = ("cpu",)) -> claims.Claim | None:
    with database.write() as session:
        claim = claims.claim(session, settings, owner, devices)
        session.commit()
        return claim


def expire(database: Database) -> None:
    with database.write() as session:
        session.execute(sa.update(Training).values(lease_expires_at=utc_now() - timedelta(seconds=1)))
        session.commit()


def test_the_oldest_goes_first_and_a_foreign_device_waits(database: Database, settings: Settings) -> None:
    with database.write() as session:
        add_trainings(session, 1, device="cuda")
        add_trainings(session, 2)
    taken = [take(database, settings, "w") for _ in range(3)]
    assert [claim.public_id if claim else None for claim in taken] == ["auto-0", "auto-1", None]
    claim = take(database, settings, "w", ("cpu", "cuda"))
    assert claim is not None
    assert claim.public_id == "cuda-0"


def test_workers_at_once_take_each_training_once(database: Database, settings: Settings) -> None:
    with database.write() as session:
        ids = add_trainings(session, 12)
    taken: list[str] = []

    def work(owner: str) -> None:
        while (claim := take(database, settings, owner)) is not None:
            taken.append(claim.public_id)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(ids)


def test_a_lost_lease_fences_its_former_holder(database: Database, settings: Settings) -> None:
    with database.write() as session:
        add_trainings(session, 1)
    first = take(database, settings, "w1")
    assert first is not None
    expire(database)
    second = take(database, settings, "w2")
    assert second is not None
    assert (first.attempt, second.attempt) == (1, 2)
    with database.write() as session:
        assert claims.beat(session, settings, first, data={"series": 1}) is None
        assert claims.lock(session, first) is None
        claims.hand_back(session, first)
        session.commit()
    row = read(database, "auto-0")
    assert (row.status, row.owner, row.data) == ("running", "w2", None)


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_takes_no_lease_away_and_makes_none_endless(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    with database.write() as session:
        add_trainings(session, 1)
    first = take(database, settings, "w1")
    assert first is not None
    ahead = timedelta(hours=hours)
    monkeypatch.setattr(claims, "database_now", lambda session: database_now(session) + ahead)

    def sweep() -> None:
        with database.write() as session:
            claims.sweep(session, settings)
            session.commit()

    for _ in range(2):
        sweep()  # whoever sweeps before the holder has renewed its lease
        assert (read(database, "auto-0").status, read(database, "auto-0").lost_attempts) == ("running", 0)
    with database.write() as session:
        assert claims.beat(session, settings, first) is False
        session.commit()
    ahead += timedelta(seconds=settings.lease_seconds - 1)
    sweep()
    assert read(database, "auto-0").status == "running"
    ahead += timedelta(seconds=2)
    sweep()
    assert (read(database, "auto-0").status, read(database, "auto-0").lost_attempts) == ("queued", 1)
    with database.write() as session:
        assert claims.beat(session, settings, first) is None


def test_a_holder_that_is_gone_keeps_no_lease_that_a_jump_made_endless(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.write() as session:
        add_trainings(session, 1)
    assert take(database, settings, "w1") is not None
    ahead = -timedelta(hours=1)
    monkeypatch.setattr(claims, "database_now", lambda session: database_now(session) + ahead)
    assert take(database, settings, "w2") is None
    ahead += timedelta(seconds=claims.JUMP_SECONDS + 1)
    claim = take(database, settings, "w2")
    assert claim is not None
    assert claim.attempt == 2


def test_a_hint_that_lies_ahead_is_sent_again(database: Database, settings: Settings) -> None:
    with database.write() as session:
        add_trainings(session, 1)
        session.execute(sa.update(Training).values(hinted_at=utc_now() + timedelta(hours=1)))
        assert claims.take_stale_hints(session, settings) == [("auto-0", "auto")]
        assert claims.take_stale_hints(session, settings) == []


def test_the_same_worker_is_fenced_by_its_attempt(database: Database, settings: Settings) -> None:
    with database.write() as session:
        add_trainings(session, 1)
    first = take(database, settings, "w1")
    expire(database)
    assert take(database, settings, "w1") is not None
    assert first is not None
    with database.write() as session:
        assert claims.beat(session, settings, first) is None


def test_a_beat_renews_the_lease_and_hears_of_a_cancel(database: Database, settings: Settings) -> None:
    with database.write() as session:
        add_trainings(session, 1)
    claim = take(database, settings, "w1")
    assert claim is not None
    expire(database)
    with database.write() as session:
        assert claims.beat(session, settings, claim) is False
        session.commit()
    assert take(database, settings, "w2") is None
    with database.write() as session:
        service.cancel(session, service.get_training(session, 1, "auto-0"))
        session.commit()
    with database.write() as session:
        assert claims.beat(session, settings, claim) is True


def test_a_training_lost_too_often_fails_and_says_so(database: Database, settings: Settings) -> None:
    with database.write() as session:
        add_trainings(session, 1)
    for _ in range(settings.max_attempts):
        assert take(database, settings, "w") is not None
        expire(database)
    assert take(database, settings, "w") is None
    row = read(database, "auto-0")
    assert row.status == "failed"
    assert row.problem is not None
    assert row.problem["type"] == "/problems/worker-lost"
    with database.read() as session:
        kinds = session.scalars(sa.select(TrainingEvent.kind).where(TrainingEvent.training_id == row.id)).all()
    assert kinds == ["failed"]


def test_handing_back_costs_no_attempt(database: Database, settings: Settings) -> None:
    with database.write() as session:
        add_trainings(session, 1)
    for _ in range(settings.max_attempts + 2):
        claim = take(database, settings, "w")
        assert claim is not None
        with database.write() as session:
            claims.hand_back(session, claim)
            session.commit()
    assert read(database, "auto-0").status == "queued"


def test_hints_are_sent_again_only_when_they_are_due(database: Database, settings: Settings) -> None:
    with database.write() as session:
        add_trainings(session, 2)

    def due() -> list[str]:
        with database.write() as session:
            hints = claims.take_stale_hints(session, settings)
            session.commit()
            return sorted(public_id for public_id, _ in hints)

    assert due() == ["auto-0", "auto-1"]
    assert due() == []
    assert take(database, settings, "w") is not None
    with database.write() as session:
        past = utc_now() - timedelta(seconds=settings.hint_seconds + 1)
        session.execute(sa.update(Training).values(hinted_at=past))
        session.commit()
    assert due() == ["auto-1"]


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_an_ended_training_is_never_claimed_or_swept(database: Database, settings: Settings, status: str) -> None:
    with database.write() as session:
        add_trainings(session, 1)
        session.execute(sa.update(Training).values(status=status, lease_expires_at=utc_now() - timedelta(seconds=9)))
        session.commit()
    assert take(database, settings, "w") is None
    assert read(database, "auto-0").status == status


def read_totals(database: Database) -> dict[tuple[str, float], tuple[int, float]]:
    with database.read() as session:
        rows = session.scalars(sa.select(TrainingTotal)).all()
        return {(row.status, row.at_most_seconds): (row.count, row.seconds) for row in rows}


def test_ends_are_counted_by_status_and_seconds_and_stay_counted(database: Database, settings: Settings) -> None:
    with database.write() as session:
        add_trainings(session, 5)
        for number, seconds in enumerate((0.5, 2.0, 2.25, 1e6, 2e6)):
            training = session.scalars(sa.select(Training).where(Training.public_id == f"auto-{number}")).one()
            training.started_at = database_now(session) - timedelta(seconds=seconds)
            service.end(session, training, "succeeded" if number else "cancelled")
        session.commit()
    totals = read_totals(database)
    assert {key: count for key, (count, _) in totals.items()} == {
        ("cancelled", 1.0): 1,
        ("succeeded", 2.5): 2,
        ("succeeded", math.inf): 2,
    }
    assert totals["succeeded", 2.5][1] == pytest.approx(4.25, abs=0.2)
    with database.write() as session:
        session.delete(session.scalars(sa.select(Model)).one())
        session.commit()
    assert read_totals(database) == totals


def test_an_end_that_is_rolled_back_is_not_counted(database: Database) -> None:
    with database.write() as session:
        add_trainings(session, 1)
        service.end(session, session.scalars(sa.select(Training)).one(), "failed")
    assert read_totals(database) == {}


def test_ends_at_once_are_all_counted(database: Database, settings: Settings) -> None:
    with database.write() as session:
        ids = add_trainings(session, 12)

    def end(public_id: str) -> None:
        with database.write() as session:
            service.end(session, session.scalars(sa.select(Training).where(Training.public_id == public_id)).one(), "failed")
            session.commit()

    threads = [threading.Thread(target=end, args=(public_id,)) for public_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_totals(database) == {("failed", 1.0): (12, 0.0)}


def test_a_worker_says_who_it_is_each_time_it_is_seen(database: Database) -> None:
    for owner in ("boot/1/1", "boot/1/2"):
        with database.write() as session:
            presence.register_worker(session, "here", ("cpu",), owner)
            session.commit()
    with database.read() as session:
        worker = session.scalars(sa.select(Worker)).one()
    assert (worker.owner, worker.code_version, worker.devices) == ("boot/1/2", __version__, ["cpu"])
    assert worker.clock_at is not None
    assert abs((worker.clock_at - worker.seen_at).total_seconds()) < 1


CUDA = ("cuda", "cpu")


def see(database: Database, name: str, owner: str, *, slots: int = 1, seconds_ago: float = 0.0) -> None:
    with database.write() as session:
        presence.register_worker(session, name, CUDA, owner, slots)
        session.execute(sa.update(Worker).where(Worker.name == name).values(seen_at=utc_now() - timedelta(seconds=seconds_ago)))
        session.commit()


def test_auto_is_left_to_a_cuda_worker_that_is_free(database: Database, settings: Settings) -> None:
    see(database, "gpu", "elsewhere/1/1", slots=2)
    with database.write() as session:
        ids = add_trainings(session, 3)
        add_trainings(session, 1, device="cpu")
    claim = take(database, settings, "w")
    assert claim is not None
    assert claim.public_id == "cpu-0", "what is the CPU's own goes on"
    assert take(database, settings, "w") is None
    with database.read() as session:
        assert claims.find_left_for_cuda(session, ("cpu",)) == ids[0]
        assert claims.find_left_for_cuda(session, CUDA) is None
    for public_id in ids[:2]:
        claim = take(database, settings, "elsewhere/1/1", CUDA)
        assert claim is not None
        assert claim.public_id == public_id
    claim = take(database, settings, "w")
    assert claim is not None
    assert claim.public_id == ids[2], "every CUDA slot is held"


@pytest.mark.parametrize("how", ["not seen", "killed here", "of an older version", "none"])
def test_auto_goes_to_a_cpu_worker_when_no_cuda_worker_is_alive(database: Database, settings: Settings, how: str) -> None:
    if how == "not seen":
        see(database, "gpu", "elsewhere/1/1", seconds_ago=settings.sweep_seconds * presence.SEEN_PAUSES + 1)
    elif how == "killed here":
        place, number, started = name_process().rsplit("/", 2)
        see(database, "gpu", f"{place}/{number}/{int(started) - 1}")
    elif how == "of an older version":
        see(database, "gpu", "elsewhere/1/1")
        with database.write() as session:
            session.execute(sa.update(Worker).values(owner=None))
            session.commit()
    with database.write() as session:
        add_trainings(session, 1)
    claim = take(database, settings, "w")
    assert claim is not None
    assert claim.public_id == "auto-0"
