"""A training whose worker is lost, or stops, goes on where it stood, to the same version."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.database import Database
from app.settings import Settings
from app.tables import Artifact, Training, TrainingState
from app.training import supervision
from app.training.execution import Executor
from tests.conftest import Client

BODY = {"dataset": "air", "horizon": 6, "fit": {"max_steps": 400}}


@pytest.fixture
def executor(database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Executor:
    monkeypatch.setattr(supervision, "LOOK_SECONDS", 0.1)  # on a quiet machine all of it takes less than a second
    settings = Settings(data_dir=tmp_path, database_url=database_url, checkpoint_seconds=0.1)
    return Executor(database, settings, "test-worker", ("cpu",))


def break_off(client: Client, database: Database, executor: Executor, act: Callable[[], object]) -> str:
    """Executes a training, does `act` once its first state is there, and gives its id when the executor is back."""
    training_id = str(client.post("/v1/models/air/trainings", json=BODY).json()["id"])
    thread = threading.Thread(target=executor.execute)
    thread.start()
    while thread.is_alive():
        with database.read() as session:
            if session.scalar(sa.select(sa.func.count()).select_from(TrainingState)):
                break
        time.sleep(0.02)
    assert thread.is_alive(), "it ended before a state was kept"
    act()
    thread.join(30)
    assert not thread.is_alive()
    return training_id


def kill_child() -> None:
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)


def read_history(client: Client, training_id: str, attempt: int) -> list[dict[str, Any]]:
    items = client.get(f"/v1/trainings/{training_id}/history").json()["items"]
    return [item for item in items if item["attempt"] == attempt]


def read_sha256s(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(sa.select(Artifact.sha256).order_by(Artifact.id)))


def test_a_killed_training_goes_on_to_the_same_bytes(client: Client, database: Database, executor: Executor) -> None:
    client.post_air()
    training_id = break_off(client, database, executor, kill_child)
    assert executor.execute() == training_id
    ended = client.get(f"/v1/trainings/{training_id}").json()
    assert (ended["status"], ended["attempt"]) == ("succeeded", 2)
    first, second = (read_history(client, training_id, attempt) for attempt in (1, 2))
    assert first[0]["step"] == 0
    assert 0 < second[0]["step"] <= first[-1]["step"] + 20
    assert client.train(executor, "air", **BODY)["status"] == "succeeded"
    resumed, whole = read_sha256s(database)
    assert resumed == whole
    with database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(TrainingState)) == 0


def test_a_worker_that_stops_hands_back_where_it_stood(
    client: Client, database: Database, executor: Executor, settings: Settings
) -> None:
    client.post_air()
    training_id = break_off(client, database, executor, executor.stopping.set)
    with database.read() as session:
        training = session.scalars(sa.select(Training)).one()
        assert (training.status, training.lost_attempts) == ("queued", 0)
        state = session.scalars(sa.select(TrainingState)).one()
        assert state.fingerprint == (training.data or {})["fingerprint"]
    assert Executor(database, settings, "another", ("cpu",)).execute() == training_id
    assert read_history(client, training_id, 2)[0]["step"] == state.step > 0


@pytest.mark.parametrize("change", ["data", "state"])
def test_other_data_or_a_damaged_state_begins_anew(client: Client, database: Database, executor: Executor, change: str) -> None:
    client.post_air()
    training_id = break_off(client, database, executor, kill_child)
    if change == "data":
        row = {"series": "air", "timestamp": "1955-01-01", "value": 1.0}
        assert client.post("/v1/datasets/air/observations", json={"observations": [row]}).status_code == 200
    else:
        with database.write() as session:
            session.execute(sa.update(TrainingState).values(data=b"something else"))
            session.commit()
    assert executor.execute() == training_id
    assert read_history(client, training_id, 2)[0]["step"] == 0
    assert client.get(f"/v1/trainings/{training_id}").json()["status"] == "succeeded"
