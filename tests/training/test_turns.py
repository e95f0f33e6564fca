"""Workspaces take turns, on both databases."""

import pytest
import sqlalchemy as sa

from app.database import Database, utc_now
from app.keys.service import create_workspace
from app.settings import Settings
from app.tables import Dataset, Model, Training, Workspace
from app.training import claims

DAY = {"freq": "D", "phase_us": 0, "time_zone": "UTC"}


def add(database: Database, workspace: str, count: int) -> None:
    """`count` trainings of a workspace, which is made if need be."""
    now = utc_now()
    with database.write() as session:
        owner = session.scalar(sa.select(Workspace).where(Workspace.name == workspace)) or create_workspace(session, workspace)
        dataset = Dataset(workspace_id=owner.id, name=f"d{count}", created_at=now, updated_at=now, **DAY)
        session.add(dataset)
        session.flush()
        model = Model(workspace_id=owner.id, dataset_id=dataset.id, name=f"m{count}", horizon=3, created_at=now)
        session.add(model)
        session.flush()
        for number in range(count):
            common = {"workspace_id": owner.id, "model_id": model.id, "dataset_id": dataset.id, "request": {}, "cutoff_step": 1}
            session.add(
                Training(public_id=f"{workspace}-{number}", status="queued", device_wanted="auto", created_at=now, **common)
            )
            session.flush()
        session.commit()


def take(database: Database, settings: Settings) -> str | None:
    with database.write() as session:
        claim = claims.claim(session, settings, "w", ("cpu",))
        session.commit()
    return None if claim is None else claim.public_id


def end(database: Database, *public_ids: str) -> None:
    with database.write() as session:
        session.execute(sa.update(Training).where(Training.public_id.in_(public_ids)).values(status="succeeded"))
        session.commit()


def test_one_with_a_hundred_trainings_delays_another_by_one(database: Database, settings: Settings) -> None:
    add(database, "flood", 100)
    first = [take(database, settings)]
    end(database, "flood-0")
    add(database, "small", 2)
    add(database, "third", 1)
    order = []
    for _ in range(6):
        taken = take(database, settings)
        assert taken is not None
        order.append(taken)
        end(database, taken)
    assert first == ["flood-0"]
    assert order == ["small-0", "third-0", "flood-1", "small-1", "flood-2", "flood-3"]


def test_long_trainings_of_one_do_not_fill_all_places(database: Database, settings: Settings) -> None:
    add(database, "long", 5)
    add(database, "short", 5)
    assert [take(database, settings), take(database, settings)] == ["long-0", "short-0"]
    for number in range(3):  # long-0 runs on; whoever has fewer running is next, however often it was
        end(database, f"short-{number}")
        assert take(database, settings) == f"short-{number + 1}"


@pytest.mark.parametrize("limits", [{"running_trainings": 1}, {"training_seconds_per_day": 1}])
def test_a_workspace_at_its_limit_waits_and_lets_others_pass(
    database: Database, settings: Settings, limits: dict[str, int]
) -> None:
    add(database, "bound", 3)
    add(database, "free", 2)
    with database.write() as session:
        session.execute(sa.update(Workspace).where(Workspace.name == "bound").values(limits=limits))
        session.commit()
    assert take(database, settings) == "bound-0"
    with database.write() as session:  # it has run for a while
        began = utc_now().replace(year=2020)
        session.execute(sa.update(Training).where(Training.public_id == "bound-0").values(started_at=began))
        session.commit()
    assert [take(database, settings) for _ in range(3)] == ["free-0", "free-1", None]
    end(database, "bound-0")
    assert take(database, settings) == "bound-1"
