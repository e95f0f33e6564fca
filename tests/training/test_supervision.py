"""How a supervised child may end, beside well: by the limit, by a kill, by a cancel, by a lost lease."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.database import Database, utc_now
from app.settings import Settings
from app.tables import Training, Version
from app.training import supervision
from app.training.execution import Executor
from tests.conftest import QUICK, Client

LONG = {"dataset": "air", "horizon": 6, "fit": {"max_seconds": 60}}


def run_and(client: Client, executor: Executor, act: Callable[[str], object]) -> dict[str, Any]:
    """Executes a long training, does `act` with its id as soon as it has a child, and gives it as it ended."""
    client.post_air()
    training_id = client.post("/v1/models/air/trainings", json=LONG).json()["id"]
    thread = threading.Thread(target=executor.execute)
    thread.start()
    while thread.is_alive() and not multiprocessing.active_children():
        time.sleep(0.02)
    act(training_id)
    thread.join(30)
    assert not thread.is_alive()
    assert not multiprocessing.active_children()
    return dict(client.get(f"/v1/trainings/{training_id}").json())


def test_the_time_limit_ends_it(client: Client, database: Database, tmp_path: Path, database_url: str) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database_url, max_training_seconds=0.1)
    ended = run_and(client, Executor(database, settings, "test-worker", ("cpu",)), lambda _: None)
    assert (ended["status"], ended["problem"]["type"]) == ("failed", "/problems/time-limit")


def kill_children(_: str) -> None:
    for child in multiprocessing.active_children():
        child.kill()


def test_a_killed_child_is_a_lost_attempt_and_the_worker_lives(client: Client, executor: Executor) -> None:
    ended = run_and(client, executor, kill_children)
    assert (ended["status"], ended["attempt"], ended["problem"]) == ("queued", 1, None)
    assert client.post(f"/v1/trainings/{ended['id']}/cancel").status_code == 202
    assert client.train(executor, "air", fit={"max_steps": 10})["status"] == "succeeded"


def test_a_child_that_the_kernel_killed_for_memory_fails_its_training(
    client: Client, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = tmp_path / "vmstat"
    counts.write_text("nr_free_pages 12\noom_kill 3\n")
    monkeypatch.setattr(supervision, "KERNEL_COUNTS", counts)

    def run_out_of_memory(_: str) -> None:
        time.sleep(0.3)  # the supervisor has looked at it once
        counts.write_text("nr_free_pages 12\noom_kill 4\n")
        kill_children(_)

    problem = run_and(client, executor, run_out_of_memory)["problem"]
    assert problem["type"] == "/problems/out-of-memory"
    assert problem["peak_bytes"] > 2**20
    assert f"{problem['peak_bytes'] / 2**20:.0f} MiB" in problem["detail"]


def test_a_child_that_allocates_more_than_it_may_says_how_much_it_had(database: Database, settings: Settings) -> None:
    with Client(settings.model_copy(update={"max_network_weights": 10**10})) as client:
        client.post_air()
        fit = {"batch_size": 65_536, "max_steps": 2}
        network = {"hidden_size": 4096, "num_layers": 16}  # 8 GB of weights
        client.post("/v1/models/big/trainings", json={"dataset": "air", "horizon": 6, "fit": fit, "network": network})
        limited = settings.model_copy(update={"max_training_bytes": 2**30})
        Executor(database, limited, "test-worker", ("cpu",)).execute()
        problem = client.get("/v1/trainings").json()["items"][0]["problem"]
        assert problem["type"] == "/problems/out-of-memory"
        assert 2**20 < problem["peak_bytes"] < 2**31
        executor = Executor(database, settings, "test-worker", ("cpu",))
        assert client.train(executor, "air", dataset="air", horizon=6, fit={"max_steps": 10})["status"] == "succeeded"


def test_a_child_that_hangs_is_killed_at_the_limit(
    client: Client, database: Database, tmp_path: Path, database_url: str
) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database_url, max_training_seconds=2.0)

    def hang(_: str) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGSTOP)

    ended = run_and(client, Executor(database, settings, "test-worker", ("cpu",)), hang)
    assert (ended["status"], ended["problem"]["type"]) == ("failed", "/problems/time-limit")


def test_a_cancel_ends_it(client: Client, executor: Executor) -> None:
    def cancel(training_id: str) -> None:
        assert client.post(f"/v1/trainings/{training_id}/cancel").status_code == 202

    ended = run_and(client, executor, cancel)
    assert ended["status"] == "cancelled"
    assert ended["version"] is None


def test_a_worker_that_lost_its_lease_writes_nothing(client: Client, executor: Executor, database: Database) -> None:
    def take_away(training_id: str) -> None:
        with database.write() as session:
            lease = utc_now() + timedelta(hours=1)
            values = {"owner": "another", "attempt": 2, "lease_expires_at": lease, "progress": None}
            session.execute(sa.update(Training).values(**values))
            session.commit()

    ended = run_and(client, executor, take_away)
    assert (ended["status"], ended["attempt"], ended["problem"]) == ("running", 2, None)
    with database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Version)) == 0


def test_a_deleted_model_stops_its_training(client: Client, executor: Executor) -> None:
    ended = run_and(client, executor, lambda _: client.delete("/v1/models/air"))
    assert ended["status"] == 404


def test_a_child_that_is_slow_to_start_costs_no_lease(
    client: Client, executor: Executor, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first of a worker, whose forkserver loads torch from a cold disk."""
    monkeypatch.setattr(supervision, "LOOK_SECONDS", 0.1)
    start = ForkServerProcess.start

    def start_slowly(process: ForkServerProcess) -> None:
        first = read_lease(database)
        deadline = time.monotonic() + 10
        while read_lease(database) == first:
            assert time.monotonic() < deadline, "the lease is not renewed"
            time.sleep(0.05)
        start(process)

    monkeypatch.setattr(ForkServerProcess, "start", start_slowly)
    client.post_air()
    ended = client.train(executor, "air", dataset="air", horizon=3, **QUICK)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)


def read_lease(database: Database) -> Any:
    with database.read() as session:
        return session.scalar(sa.select(Training.lease_expires_at))
