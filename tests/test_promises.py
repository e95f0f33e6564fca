"""Two clients, workers and faults, in any order, against all that the service promises, on both databases."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from app import faults
from app.database import Database, utc_now
from app.tables import Training, TrainingEvent, Version
from app.training import claims
from app.training.execution import Executor
from tests.conftest import Client

STEPS, SERIES = range(1, 9), ("a", "b")
WRITE_FAULTS = {"write.merged": False, "write.flushed": False, "write.committed": True}
REQUEST_FAULTS = {"request.flushed": False, "request.committed": True}
"""Whether what was asked for is done when a process dies there."""
WORK_FAULTS = [point for point in faults.POINTS if point.startswith(("claim", "finish"))]


class Killed(BaseException):
    """Nobody catches it: what holds a transaction loses it, as with a process."""


class Cut(Exception):
    """The same in a route, where it becomes an answer that the client is not to trust."""


class Promises:
    """The model."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, int], float] = {}
        self.done: dict[str, Any] = {}  # key -> the first answer, None while the client has not seen it
        self.trainings: set[str] = set()

    def write(self, rows: dict[tuple[str, int], float]) -> None:
        self.values |= rows


class Machine(RuleBasedStateMachine):
    client: Client
    executor: Executor
    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.name = f"d{uuid4().hex[:12]}"
        self.model = Promises()
        self.sent: dict[str, tuple[str, dict[str, Any], dict[tuple[str, int], float] | None]] = {}
        assert self.client.put(f"/v1/datasets/{self.name}", json={"freq": "step"}).status_code == 201
        self.write({("a", 1): 1.0, ("a", 2): 2.0, ("a", 3): 1.5}, None)

    @rule(
        rows=st.dictionaries(
            st.tuples(st.sampled_from(SERIES), st.sampled_from(STEPS)), st.integers(0, 99).map(float), min_size=1
        ),
        fault=st.sampled_from([None, None, *WRITE_FAULTS]),
    )
    def write(self, rows: dict[tuple[str, int], float], fault: str | None) -> None:
        body = {"observations": [{"series": one, "timestamp": step, "value": value} for (one, step), value in rows.items()]}
        self._send(f"/v1/datasets/{self.name}/observations", body, rows, fault, WRITE_FAULTS)

    @rule(seed=st.integers(0, 2), fault=st.sampled_from([None, None, *REQUEST_FAULTS]))
    def request(self, seed: int, fault: str | None) -> None:
        body = {"dataset": self.name, "horizon": 1, "fit": {"max_steps": 1, "seed": seed}}
        self._send(f"/v1/models/{self.name}/trainings", body, None, fault, REQUEST_FAULTS)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """After a lost answer, or just so: the first answer, and no second effect."""
        key = list(self.sent)[data.draw(st.integers(0, len(self.sent) - 1))]
        path, body, rows = self.sent[key]
        answer = self._post(key, path, body)
        assert answer.status_code in (200, 202), answer.text
        first = self.model.done.get(key)
        assert first is None or answer.json() == first
        self._take_in(key, answer.json(), rows)

    @rule(values=st.tuples(st.integers(100, 199), st.integers(200, 299)))
    def write_at_once(self, values: tuple[int, int]) -> None:
        """Two clients, the same steps, the same instant: one of them is last, whole."""
        answers: list[int] = []

        def write(value: int) -> None:
            body = {"observations": [{"series": "b", "timestamp": step, "value": float(value)} for step in STEPS]}
            answers.append(self._post(None, f"/v1/datasets/{self.name}/observations", body).status_code)

        threads = [threading.Thread(target=write, args=(value,)) for value in values]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200, 200]
        found = self._read()["b", STEPS[0]]
        assert found in values
        self.model.write({("b", step): found for step in STEPS})

    @rule(fault=st.sampled_from([None, None, *WORK_FAULTS]))
    def work(self, fault: str | None) -> None:
        """A worker takes what is first in line; where it is killed, its lease runs out."""
        try:
            with faults.arm(fault, _raise(Killed)) if fault else nullcontext():
                self.executor.execute()
        except Killed:
            self.lose_lease()

    @rule()
    def lose_lease(self) -> None:
        with self.database.write() as session:
            past = utc_now() - timedelta(seconds=1)
            running = sa.update(Training).where(Training.status == "running")
            session.execute(running.values(lease_expires_at=past, lost_attempts=0))
            claims.sweep(session, self.executor._settings)
            session.commit()

    @invariant()
    def what_was_acknowledged_is_there_and_nothing_else(self) -> None:
        assert self._read() == self.model.values

    @invariant()
    def each_training_is_one_row_with_at_most_one_version_and_one_end(self) -> None:
        with self.database.read() as session:
            ours = sa.select(Training).where(Training.request["dataset"].as_string() == self.name)
            trainings = session.scalars(ours).all()
            ids = [one.id for one in trainings]
            versions = sorted(session.scalars(sa.select(Version.training_id).where(Version.training_id.in_(ids))))
            is_end = sa.and_(TrainingEvent.training_id.in_(ids), TrainingEvent.kind != "progress")
            ends = sorted(session.scalars(sa.select(TrainingEvent.training_id).where(is_end)))
        done = sorted(one.id for one in trainings if one.status == "succeeded")
        assert {one.public_id for one in trainings} >= self.model.trainings
        assert versions == ends == done
        assert all(one.status in ("queued", "running", "succeeded") for one in trainings)

    def teardown(self) -> None:
        """In the end everything that was accepted is done."""
        while self.executor.execute() is not None:
            pass
        for training in self.model.trainings:
            assert self.client.get(f"/v1/trainings/{training}").json()["status"] == "succeeded"

    def _send(self, path: str, body: dict[str, Any], rows: Any, fault: str | None, faults_there: dict[str, bool]) -> None:
        key = f"{self.name}/{len(self.sent)}"
        with faults.arm(fault, _raise(Cut)) if fault else nullcontext():
            answer = self._post(key, path, body)
        self.sent[key] = path, body, rows
        if answer.status_code in (200, 202):
            self._take_in(key, answer.json(), rows)
            return
        assert (answer.status_code, fault is None) == (500, False), answer.text
        if faults_there[str(fault)]:
            self.model.done[key] = None
            self.model.write(rows or {})

    def _take_in(self, key: str, answer: dict[str, Any], rows: dict[tuple[str, int], float] | None) -> None:
        if key not in self.model.done:
            self.model.write(rows or {})
        self.model.done[key] = answer
        if rows is None:
            self.model.trainings.add(answer["id"])

    def _post(self, key: str | None, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.client.post(path, json=body, headers={"Idempotency-Key": key} if key else {})

    def _read(self) -> dict[tuple[str, int], float]:
        series = self.client.get(f"/v1/datasets/{self.name}/observations").json()["series"]
        return {
            (one["id"], step): value for one in series for step, value in zip(one["timestamps"], one["values"], strict=True)
        }


def _raise(error: type[BaseException]) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def drive(client: Client, executor: Executor, database: Database, examples: int, steps: int) -> None:
    machine = type("Machine", (Machine,), {"client": client, "executor": executor, "database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


def test_whatever_happens_the_promises_are_kept(client: Client, executor: Executor, database: Database) -> None:
    """The long form is `python -m benchmarks.promises`."""
    drive(client, executor, database, examples=5, steps=12)
