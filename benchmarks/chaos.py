"""Trainings under kill -9: what is lost, what is done twice, and how much longer it takes.

    python -m benchmarks.chaos [embedded] [redis] [--trainings 500] [--workers 3] [--calm 40] [--seed 0] [--steps 400] [--pause 1 3]

Trainings of half to two and a half times `--steps`. They are meant to take 1 to 5 s each: 400 did on a quiet machine with two cores, a
quick one needs 800. How long they took is printed.
Every 1 to 3 s (`--pause`: on a machine that others use, as much longer as everything takes longer) a process is killed with SIGKILL, chosen at random: a worker, a training's own process, a forkserver, the API, the
scheduler, the broker (`redis` only: a server of its own, which keeps nothing on disk). Processes also kill themselves inside the
critical instants, at the fault points of app/faults.py. Every hint is sent twice, every request is sent again while chaos reigns, under
its Idempotency-Key, and the broker's store is wiped once. Whoever died is started again. `ideal` is the pace of the same trainings on the same workers, measured just before, while nothing is killed.

`redis` needs `redis-server` and a PostgreSQL at ENGRAM_TEST_POSTGRES_URL, in which it makes a database for the time being.
"""

import argparse
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import redis
import sqlalchemy as sa

from app import sqlite_broker
from app.database import Database
from app.queue import Queue
from app.settings import Settings
from app.tables import Training, TrainingEvent, Version
from migrations import scratch
from tests.processes import Service, run_service

POSTGRES_URL = os.environ.get("ENGRAM_TEST_POSTGRES_URL", "postgresql://127.0.0.1:5432/postgres")
AIR = Path(__file__).parent.parent / "examples" / "air_passengers.csv"
RESTART_SECONDS = 0.5
SETTLE_SECONDS = 300.0
SETTLE_TIMES = 4.0
"""A drain is given up after this many times its ideal, and `SETTLE_SECONDS` on top: what is left then is reported as lost."""
WORD_SECONDS = 30.0
SETTINGS = {
    "ENGRAM_MAX_ATTEMPTS": "20",
    "ENGRAM_SWEEP_SECONDS": "1",
    "ENGRAM_HINT_SECONDS": "5",
    "ENGRAM_CHECKPOINT_SECONDS": "1",
    "PYTHONDONTWRITEBYTECODE": "",  # as where the service is installed: its code is compiled once, not with each start
}
FAULTS = {
    "worker": "claim.taken=0.02,claim.committed=0.02,beat.written=0.005,finish.registered=0.02,finish.flushed=0.02,finish.committed=0.02",
    "api": "request.flushed=0.02,request.committed=0.02,write.flushed=0.02",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", nargs="*", default=[], help="embedded, redis; both if none is named")
    for name, default in (("trainings", 500), ("workers", 3), ("calm", 40), ("seed", 0), ("steps", 400)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--pause", type=float, nargs=2, default=(1.0, 3.0))
    arguments = parser.parse_args()
    stacks = arguments.stacks or ["embedded", "redis"]
    if set(stacks) - {"embedded", "redis"}:
        parser.error("expected embedded, redis or both")
    failed = [stack for stack in stacks if run(stack, arguments)]
    sys.exit(1 if failed else 0)


def run(stack: str, arguments: argparse.Namespace) -> bool:
    """Whether anything was lost or doubled."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack_of:
        folder = Path(name)
        environment = {**SETTINGS, "ENGRAM_DATA_DIR": name}
        broker: EmbeddedBroker | RedisBroker = EmbeddedBroker(folder)
        if stack == "redis":
            broker = stack_of.enter_context(run_redis(folder))
            environment["ENGRAM_DATABASE_URL"] = stack_of.enter_context(scratch.make_postgres(POSTGRES_URL))
            environment["ENGRAM_BROKER_URL"] = broker.url
        service = stack_of.enter_context(run_service(environment, folder))
        settings = Settings(
            data_dir=folder,
            database_url=environment.get("ENGRAM_DATABASE_URL", ""),
            broker_url=environment.get("ENGRAM_BROKER_URL", ""),
        )
        service.migrate()
        parts = stack_of.enter_context(Parts(service, arguments.workers, arguments.seed, arguments.pause))
        hints = Queue(settings)
        stack_of.callback(hints.close)
        post_until_answered(service, "/v1/datasets/air/observations", {}, content=AIR.read_bytes())
        client = Client(service, settings, hints, random.Random(arguments.seed), arguments.steps)
        warm = client.drain("warm", 2 * arguments.workers, SETTLE_SECONDS)
        calm = client.drain("calm", arguments.calm, warm * arguments.calm / arguments.workers)
        print(f"{stack}: {arguments.calm} trainings without chaos took {calm:.0f} s")
        ideal = calm / arguments.calm * arguments.trainings
        wall = client.drain("chaos", arguments.trainings, ideal, lambda: parts.begin_chaos(broker))
        kills = parts.end_chaos()
        return report(stack, settings, arguments, ideal, wall, kills)


class EmbeddedBroker:
    """The queue's file: a library in each process, so there is nothing to kill but the store."""

    pid = None

    def __init__(self, folder: Path) -> None:
        self._path = sqlite_broker.find_path(Settings(data_dir=folder).broker_url)

    def wipe(self) -> None:
        with closing(sqlite3.connect(self._path, timeout=30)) as connection, connection:
            connection.execute("DELETE FROM messages")


class RedisBroker:
    """A Redis of our own, on a free port, without a disk."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._folder = folder
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process = self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> "subprocess.Popen[bytes]":
        command = ["redis-server", "--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        return self._process

    def keep_running(self) -> None:
        if self._process.poll() is not None:
            self.start()

    def wipe(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


@contextmanager
def run_redis(folder: Path) -> Iterator[RedisBroker]:
    broker = RedisBroker(folder)
    try:
        yield broker
    finally:
        broker.stop()


class Parts:
    """API, workers and scheduler: started again when they die, and killed while chaos reigns."""

    def __init__(self, service: Service, workers: int, seed: int, pause: tuple[float, float]) -> None:
        self._pause = pause
        self._service = service
        self._plain = dict(service.environment)
        self._chance = random.Random(seed + 1)
        self._names = ["api", *(f"worker {number}" for number in range(workers)), "scheduler"]
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._ended_at: dict[str, float] = {}
        self._broker: EmbeddedBroker | RedisBroker | None = None
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._killer: threading.Thread | None = None
        self._calm = threading.Event()
        self._hit: set[str] = set()
        self.kills: Counter[str] = Counter()

    def __enter__(self) -> "Parts":
        self._running["api"] = self._service.start_api()
        self._port = self._service.http.base_url.port
        for name in self._names[1:]:
            self._start(name)
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end_chaos()
        self._ending.set()
        self._keeper.join()

    def begin_chaos(self, broker: EmbeddedBroker | RedisBroker) -> None:
        """Workers and API are replaced by ones with fault points armed, as they are killed."""
        self._broker = broker
        self._killer = threading.Thread(target=self._kill, daemon=True)
        self._killer.start()

    def end_chaos(self) -> Counter[str]:
        """The kills, by whom they met; those by fault points are the parts' own."""
        self._calm.set()
        if self._killer is not None:
            self._killer.join()
        return self.kills

    def _start(self, name: str) -> None:
        kind = name.split()[0]
        faults = {"ENGRAM_FAULTS": FAULTS[kind]} if self._broker is not None and kind in FAULTS else {}
        self._service.environment = {**self._plain, **faults}
        arguments = [f"--port={self._port}"] if kind == "api" else []
        self._running[name] = self._service.start(kind, *arguments)

    def _keep(self) -> None:
        while not self._ending.wait(0.1):
            with self._lock:
                for name, process in list(self._running.items()):
                    if process.poll() is None:
                        continue
                    if name not in self._ended_at:
                        self._ended_at[name] = time.monotonic()
                        self.kills["by fault points"] += process.returncode == -signal.SIGKILL and name not in self._hit
                    elif time.monotonic() - self._ended_at[name] > RESTART_SECONDS:
                        del self._ended_at[name]
                        self._hit.discard(name)
                        self._start(name)
                if isinstance(self._broker, RedisBroker):
                    self._broker.keep_running()

    def _kill(self) -> None:
        assert self._broker is not None
        victims = ["worker", "child", "forkserver", "api", "scheduler"] + (["redis"] if self._broker.pid else [])
        wiped = False
        while not self._calm.wait(self._chance.uniform(*self._pause)):
            victim = self._chance.choice(victims)
            with self._lock, suppress(ProcessLookupError):
                pid, name = self._find(victim)
                if pid is None:
                    continue
                if name is not None:
                    self._hit.add(name)
                os.kill(pid, signal.SIGKILL)
                self.kills[victim] += 1
            if not wiped and sum(self.kills.values()) >= 10:
                with suppress(redis.RedisError):
                    self._broker.wipe()
                    wiped = True
                    print("  the broker's store was wiped")

    def _find(self, victim: str) -> tuple[int | None, str | None]:
        if victim == "redis":
            return self._broker.pid if self._broker else None, None
        names = [name for name, process in self._running.items() if process.poll() is None]
        if victim in ("worker", "api", "scheduler"):
            name = self._chance.choice([name for name in names if name.startswith(victim)] or [None])
            return (None, None) if name is None else (self._running[name].pid, name)
        servers = [
            pid
            for name in names
            if name.startswith("worker")
            for pid in list_children(self._running[name].pid)
            if "forkserver" in read_command(pid)
        ]
        found = servers if victim == "forkserver" else [pid for server in servers for pid in list_children(server)]
        return (self._chance.choice(found) if found else None), None


def list_children(pid: int) -> list[int]:
    children: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            children += map(int, path.read_text().split())
    return children


def read_command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def post_until_answered(service: Service, path: str, headers: dict[str, str], **options: Any) -> Any:
    """As a careful client: the same request under the same key, until somebody answers."""
    headers = {"Idempotency-Key": path, **headers, **({"Content-Type": "text/csv"} if "content" in options else {})}
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            answer = service.post(path, headers=headers, **options)
            if answer.status_code in (200, 202):
                return answer.json()
            if answer.status_code not in (409, 503):
                raise SystemExit(f"{path}: {answer.status_code} {answer.text}")
        time.sleep(0.2)
    raise SystemExit(f"{path}: no answer")


class Client:
    """Requests trainings, each under a key of its own and with two hints, and waits for their ends."""

    def __init__(self, service: Service, settings: Settings, hints: Queue, chance: random.Random, steps: int) -> None:
        self._service = service
        self._settings = settings
        self._hints = hints
        self._chance = chance
        self._steps = steps

    def drain(self, name: str, count: int, ideal: float, begin_chaos: Callable[[], None] | None = None) -> float:
        """Seconds from the first request to the last end, as the rows say; chaos begins when all are queued. `ideal`: what it may be."""
        begin = time.monotonic()
        sent = []
        for number in range(count):
            fit = {"max_steps": round(self._steps * self._chance.uniform(0.5, 2.5)), "seed": number}
            body = {"dataset": "air", "horizon": 6, "fit": fit}
            training = post_until_answered(self._service, f"/v1/models/{name}{number}/trainings", {}, json=body)
            self._hints.send(training["id"], "auto")
            sent.append((f"/v1/models/{name}{number}/trainings", body, training["id"]))
        if begin_chaos is not None:
            begin_chaos()
        database = Database(self._settings.database_url)
        left = sa.select(sa.func.count()).where(Training.status.in_(["queued", "running"]))
        deadline = time.monotonic() + SETTLE_TIMES * ideal + SETTLE_SECONDS
        next_word = begin + WORD_SECONDS
        while time.monotonic() < deadline:
            with database.read() as session:
                waiting = session.scalar(left)
            if not waiting:
                break
            if time.monotonic() > next_word:
                next_word += WORD_SECONDS
                print(f"  {time.monotonic() - begin:.0f} s: {waiting} of {count} are left")
            if begin_chaos is not None:
                self._send_again(*self._chance.choice(sent))
            time.sleep(0.2)
        database.close()
        return time.monotonic() - begin

    def _send_again(self, path: str, body: dict[str, Any], training_id: str) -> None:
        """As a client whose answer was lost: it gets the first one, or none while the API is dead."""
        with suppress(httpx.TransportError):
            answer = self._service.post(path, json=body, headers={"Idempotency-Key": path}, timeout=5)
            if answer.status_code != 202 or answer.json()["id"] != training_id:
                raise SystemExit(f"{path}: expected the first answer again, found {answer.status_code} {answer.text[:300]}")


def find_lost(statuses: Mapping[int, str], versions: Mapping[int, int]) -> list[int]:
    """Trainings that were accepted and left no version."""
    return [id_ for id_, status in statuses.items() if status != "succeeded" or not versions.get(id_)]


def find_doubled(versions: Mapping[int, int], ends: Mapping[int, int]) -> list[int]:
    """Trainings that left two versions, or ended twice."""
    return sorted(id_ for id_ in {*versions, *ends} if versions.get(id_, 0) > 1 or ends.get(id_, 0) > 1)


def report(
    stack: str, settings: Settings, arguments: argparse.Namespace, ideal: float, wall: float, kills: Counter[str]
) -> bool:
    database = Database(settings.database_url)
    ours = Training.request_id.is_not(None)
    with database.read() as session:
        trainings = list(session.scalars(sa.select(Training).where(ours).order_by(Training.id)))[2 * arguments.workers :]
        versions = Counter(id_ for id_ in session.scalars(sa.select(Version.training_id)) if id_ is not None)
        ends = Counter(session.scalars(sa.select(TrainingEvent.training_id).where(TrainingEvent.kind != "progress")))
    database.close()
    chaos = trainings[arguments.calm :]
    calm = sorted(
        (one.finished_at - one.started_at).total_seconds()
        for one in trainings[: arguments.calm]
        if one.finished_at and one.started_at
    )
    by_id = {one.id: one for one in trainings}
    lost = [by_id[id_] for id_ in find_lost({one.id: one.status for one in trainings}, versions)]
    doubled = find_doubled(versions, ends)
    surplus = len(chaos) - arguments.trainings
    attempts = Counter(one.attempt for one in chaos)
    print(
        f"{stack}: {arguments.trainings} trainings on {arguments.workers} workers, seed {arguments.seed}, {os.cpu_count()} cores"
    )
    print(f"  kills: {sum(kills.values())} ({', '.join(f'{name} {count}' for name, count in sorted(kills.items()))})")
    print(
        f"  a training alone among {arguments.workers}: {calm[0]:.1f} to {calm[-1]:.1f} s; attempts {dict(sorted(attempts.items()))}"
    )
    print(
        f"  lost {len(lost)}, duplicated {len(doubled) + surplus}, wall {wall:.0f} s over ideal {ideal:.0f} s = {wall / ideal:.2f}"
    )
    for one in lost[:5]:
        print(f"    {one.public_id}: {one.status} {one.problem}")
    return bool(lost or doubled or surplus)


if __name__ == "__main__":
    main()
