"""The parts as processes of their own on PostgreSQL and Redis: each starts, is seen, is killed or stopped alone, and nothing is lost or doubled."""

import argparse
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
import sqlalchemy as sa

from app.database import Database
from app.queue import QUEUES
from app.tables import Housekeeping, Scheduler, Training, TrainingEvent, Version, Worker
from tests.conftest import AIR_CSV, QUICK
from tests.processes import Service, run_service
from workers.celery_app import parse_devices


@pytest.fixture
def service(postgres_url: str, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    """No part yet; each test starts its own."""
    urls = {"ENGRAM_DATABASE_URL": postgres_url, "ENGRAM_BROKER_URL": redis_url, "ENGRAM_DATA_DIR": str(tmp_path)}
    with run_service(urls, tmp_path) as service:
        yield service
    with redis.Redis.from_url(redis_url) as client:
        client.delete(*QUEUES)


@pytest.fixture
def rows(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    database.close()


def names(rows: Database, part: type[Worker] | type[Scheduler]) -> list[str]:
    with rows.read() as session:
        return list(session.scalars(sa.select(part.name)))


def rename(rows: Database, table: str, name: str) -> None:
    with rows.write() as session:
        session.execute(sa.text(f"ALTER TABLE {table} RENAME TO {name}"))
        session.commit()


def post_air(service: Service) -> None:
    answer = service.post("/v1/datasets/air/observations", content=AIR_CSV.read_bytes(), headers={"Content-Type": "text/csv"})
    assert answer.status_code == 200, answer.text


def request(service: Service, model: str, **body: object) -> str:
    answer = service.post(f"/v1/models/{model}/trainings", json={"dataset": "air", "horizon": 3, **QUICK, **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def stop(process: "subprocess.Popen[str]") -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(15)


def children(process: "subprocess.Popen[str]") -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_two_schedulers_do_no_harm_and_every_part_stops_alone(service: Service, rows: Database) -> None:
    rename(rows, "alembic_version", "hidden")  # as before the first migration
    early = service.start("scheduler")
    service.wait_for(lambda: any("waiting for the database" in line for line in service.log))
    rename(rows, "hidden", "alembic_version")
    api = service.start_api("--processes=2")
    schedulers = [early, service.start("scheduler")]
    service.wait_for(lambda: len(names(rows, Scheduler)) == 2)
    post_air(service)
    ids = [request(service, f"m{number}") for number in range(4)]
    worker = service.start("worker", "--queues=cpu", "--concurrency=2")
    ended = [service.wait_for_end(training_id) for training_id in ids]
    assert [(one["status"], one["attempt"], one["version"]) for one in ended] == [("succeeded", 1, 1)] * 4
    with rows.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Version)) == 4
        done = session.scalars(sa.select(Housekeeping)).one()
        assert done.finished_at is not None
        assert session.scalars(sa.select(Worker.slots)).all() == [2]
    assert sum("house kept" in line for line in service.log) == 1

    killed = children(api)[0]
    os.kill(killed, signal.SIGKILL)
    service.wait_for(lambda: killed not in children(api))
    for _ in range(10):  # each on a connection of its own: those to the one that was killed are gone
        assert httpx.get(f"{service.http.base_url}/health/live").status_code == 200
    service.wait_for(lambda: len(children(api)) == 2)
    assert [stop(process) for process in (*schedulers, worker, api)] == [0, 0, 0, 0]
    assert names(rows, Worker) == names(rows, Scheduler) == []


def owner_of(rows: Database, training_id: str) -> str | None:
    with rows.read() as session:
        return session.scalar(sa.select(Training.owner).where(Training.public_id == training_id))


def test_auto_goes_to_cuda_first_and_to_the_cpu_when_cuda_is_gone(service: Service, rows: Database) -> None:
    """The worker with the queue `cuda` trains on what torch finds: whether that is CUDA does not matter here."""
    service.start_api()
    post_air(service)
    workers = {queue: service.start("worker", f"--queues={queue}") for queue in ("cpu", "cuda")}
    service.wait_for(lambda: len(names(rows, Worker)) == 2)
    for number in range(3):
        training_id = request(service, f"first{number}")
        assert service.wait_for_end(training_id)["status"] == "succeeded"
        assert f"/{workers['cuda'].pid}/" in str(owner_of(rows, training_id))
    busy = request(service, "busy", fit={"max_seconds": 60})
    service.wait_for_status(busy, "running")
    beside = request(service, "beside")
    assert service.wait_for_end(beside)["status"] == "succeeded"
    assert f"/{workers['cpu'].pid}/" in str(owner_of(rows, beside))
    workers["cuda"].kill()
    workers["cuda"].wait()
    service.wait_for(lambda: f"/{workers['cpu'].pid}/" in str(owner_of(rows, busy)))  # its lease is not waited for
    assert service.get(f"/v1/trainings/{busy}").json()["attempt"] == 2


@pytest.mark.parametrize("queues", ["gpu", "cpu,gpu", "auto", ""])
def test_a_queue_that_is_not_there_is_refused(queues: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected cpu, cuda or both"):
        parse_devices(queues)


def test_a_worker_for_a_queue_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with run_service({"ENGRAM_DATA_DIR": str(tmp_path)}, tmp_path) as service:
        assert service.start("worker", "--queues=gpu").wait(30) == 2
        service.wait_for(lambda: any("found 'gpu'" in line for line in service.log))


def test_the_second_signal_ends_at_once_what_the_first_would_wait_for(service: Service) -> None:
    api = service.start_api()
    post_air(service)
    training_id = request(service, "air")
    with service.http.stream("GET", f"/v1/trainings/{training_id}/events") as stream:  # never ends: there is no worker
        api.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert api.poll() is None
        api.send_signal(signal.SIGTERM)
        assert api.wait(2) == 1
        stream.close()


def test_a_worker_that_starts_takes_what_waits_though_its_hint_was_lost(service: Service, redis_url: str) -> None:
    service.environment["ENGRAM_HINT_SECONDS"] = "600"
    service.start_api()
    post_air(service)
    with redis.Redis.from_url(redis_url) as client:
        client.delete(*QUEUES)
        training_id = request(service, "air")
        service.wait_for(lambda: client.llen("auto") or any("hint not sent" in line for line in service.log))
        client.delete(*QUEUES)
    service.start("worker", "--queues=cpu")
    assert service.wait_for_end(training_id)["status"] == "succeeded"


def test_a_worker_that_was_paused_beyond_its_lease_writes_nothing_and_works_on(service: Service, rows: Database) -> None:
    """Stopped as by a debugger or a hypervisor; its child is not, and learns to the end meanwhile."""
    service.environment["ENGRAM_LEASE_SECONDS"] = "4"
    service.start_api()
    post_air(service)
    paused = service.start("worker", "--queues=cpu")
    service.wait_for(lambda: len(names(rows, Worker)) == 1)
    assert service.wait_for_end(request(service, "first"))["status"] == "succeeded"  # its forkserver is there
    training_id = request(service, "air", fit={"max_steps": 400})
    service.wait_for_status(training_id, "running")
    paused.send_signal(signal.SIGSTOP)
    other = service.start("worker", "--queues=cpu")
    ended = service.wait_for_end(training_id)
    assert (ended["status"], ended["attempt"], ended["version"]) == ("succeeded", 2, 1)
    with rows.read() as session:
        before = session.execute(sa.select(sa.func.count(TrainingEvent.id), sa.func.max(TrainingEvent.id))).one()
    heard = len(service.log)
    paused.send_signal(signal.SIGCONT)
    service.wait_for(lambda: any("training ended" in line and "lost" in line for line in service.log[heard:]))
    with rows.read() as session:
        assert session.execute(sa.select(sa.func.count(TrainingEvent.id), sa.func.max(TrainingEvent.id))).one() == before
        assert session.scalar(sa.select(sa.func.count()).select_from(Version)) == 2
        assert f"/{paused.pid}/" not in str(owner_of(rows, training_id))
    assert stop(other) == 0
    assert service.wait_for_end(request(service, "next"))["status"] == "succeeded"
    assert paused.poll() is None
