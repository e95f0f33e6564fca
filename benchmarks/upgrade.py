"""Old and new parts on one database while an upgrade goes on, and back: what was answered, who trained what, what was lost.

    git worktree add /tmp/old COMMIT && python -m benchmarks.upgrade /tmp/old

The folder holds an older version's code; it runs in this environment, so its dependencies have to be those of today. Needs a PostgreSQL
(ENGRAM_TEST_POSTGRES_URL) and a Redis (ENGRAM_TEST_REDIS_URL), whose queues it empties.
"""

import argparse
import itertools
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import redis

from app.queue import QUEUES
from benchmarks.scale_out import AIR, POSTGRES_URL, REDIS_URL
from migrations import scratch
from tests.processes import Service

TRAINING = {"dataset": "air", "horizon": 12, "fit": {"max_steps": 60}}
SETTINGS = {"ENGRAM_SWEEP_SECONDS": "2", "ENGRAM_HINT_SECONDS": "10", "ENGRAM_LOG_LEVEL": "warning"}


class Client:
    """Stores one observation and asks for one forecast after the other, at each API of `front` in turn."""

    def __init__(self) -> None:
        self.front: list[str] = []
        self.answers: Counter[str] = Counter()
        self.stored: list[int] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Client":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(timeout=60) as http:
            for step in itertools.count():
                if self._ending.wait(0.05):
                    return
                url = self.front[step % len(self.front)]
                row = {"series": "a", "timestamp": step, "value": 1.0}
                if self._ask(http, f"{url}/v1/datasets/stream/observations", {"observations": [row]}):
                    self.stored.append(step)
                self._ask(http, f"{url}/v1/models/first/forecasts", {})

    def _ask(self, http: httpx.Client, url: str, body: Any) -> bool:
        try:
            answer = str(http.post(url, json=body).status_code)
        except httpx.TransportError as error:
            answer = type(error).__name__
        self.answers[answer] += 1
        return answer == "200"


class Upgrade:
    """The steps of docs/operations.md, each with what was seen."""

    def __init__(self, old: Service, new: Service, database_url: str, client: Client) -> None:
        self.old, self.new, self.client = old, new, client
        self._database_url = database_url
        self._workers: dict[int, str] = {}
        self._ids: list[tuple[str, str]] = []

    def start(self, version: str, part: str) -> "subprocess.Popen[str]":
        service = self.old if version == "old" else self.new
        if part == "api":
            process = service.start_api()
            service.wait_for(lambda: service.get("/health/ready").status_code == 200)
            self.client.front = [*self.client.front, str(service.http.base_url)]
        else:
            process = service.start(part)
            service.wait_for(lambda: str(process.pid) in self._list_workers())
            self._workers[process.pid] = version
        self._say(f"{version} {part} started")
        return process

    def stop(self, version: str, part: str, process: "subprocess.Popen[str]") -> None:
        if part == "api":
            service = self.old if version == "old" else self.new
            self.client.front = [url for url in self.client.front if url != str(service.http.base_url)]
        process.send_signal(signal.SIGTERM)
        self._say(f"{version} {part} stopped, exit code {process.wait(60)}")

    def train(self, version: str, count: int = 4) -> None:
        service = self.old if version == "old" else self.new
        for _ in range(count):
            answer = service.post(f"/v1/models/m{len(self._ids)}/trainings", json=TRAINING)
            answer.raise_for_status()
            self._ids.append((version, answer.json()["id"]))

    def wait_for_ends(self, version: str) -> None:
        for _, training_id in self._ids:
            (self.old if version == "old" else self.new).wait_for_end(training_id)

    def count(self) -> Counter[str]:
        """How many trainings ended how, by the API that took them and the worker that ended them."""
        with psycopg.connect(self._database_url) as connection:
            query = "SELECT public_id, status, owner FROM trainings"
            rows = {public_id: (status, owner) for public_id, status, owner in connection.execute(query).fetchall()}
        found: Counter[str] = Counter()
        for version, training_id in self._ids:
            status, owner = rows[training_id]
            worker = next((name for pid, name in self._workers.items() if f"/{pid}/" in str(owner)), "?")
            found[f"{version} API, {worker} worker: {status}"] += 1
        return found

    def compare(self) -> str:
        """Whether both APIs forecast the same with the same model."""
        models = [f"m{number}" for number in range(len(self._ids))]
        both = [
            [service.post(f"/v1/models/{model}/forecasts", json={}).json()["forecasts"] for model in models]
            for service in (self.old, self.new)
        ]
        return f"{len(models)} models, {sum(one != other for one, other in zip(*both, strict=True))} forecast differently"

    def _list_workers(self) -> str:
        with psycopg.connect(self._database_url) as connection:
            return str(connection.execute("SELECT name FROM workers").fetchall())

    def _say(self, what: str) -> None:
        answers, self.client.answers = self.client.answers, Counter()
        print(f"  {what:<42} answers since: {dict(answers)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    old_code = parser.parse_args().old
    with ExitStack() as stack:
        database_url = stack.enter_context(scratch.make_postgres(POSTGRES_URL))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(redis.Redis.from_url(REDIS_URL))
        broker.delete(*QUEUES)
        stack.callback(broker.delete, *QUEUES)
        urls = {"ENGRAM_DATABASE_URL": database_url, "ENGRAM_BROKER_URL": REDIS_URL, "ENGRAM_DATA_DIR": str(folder), **SETTINGS}
        old, new = (Service(urls, folder, code) for code in (old_code, Path(__file__).parent.parent))
        stack.callback(old.close)
        stack.callback(new.close)
        print(f"old: {old.command('migrate')}")
        client = Client()
        upgrade = Upgrade(old, new, database_url, client)
        old_api, old_worker = upgrade.start("old", "api"), upgrade.start("old", "worker")
        old.post("/v1/datasets/air/observations", content=AIR, headers={"Content-Type": "text/csv"}).raise_for_status()
        old.http.put("/v1/datasets/stream", json={"freq": "step"}).raise_for_status()
        assert old.train("first", **TRAINING)["status"] == "succeeded"
        with client:
            run(upgrade, old_api, old_worker)
        found = new.get("/v1/datasets/stream/observations").json()["series"][0]["timestamps"]
        lost = set(client.stored) - set(found)
        print(f"observations: {len(client.stored)} acknowledged, {len(lost)} lost, {len(found) - len(set(found))} doubled")
        for what, count in sorted(upgrade.count().items()):
            print(f"{what}: {count}")
        sys.exit(bool(lost) or any(not what.endswith("succeeded") for what in upgrade.count()))


def run(upgrade: Upgrade, old_api: "subprocess.Popen[str]", old_worker: "subprocess.Popen[str]") -> None:
    """Forth and back again, and forth."""
    upgrade.train("old")
    print(f"new: {upgrade.new.command('migrate')}, while the old parts work")
    upgrade.start("new", "api")
    upgrade.train("old")
    upgrade.train("new")
    new_worker = upgrade.start("new", "worker")
    upgrade.train("old")
    upgrade.train("new")
    upgrade.wait_for_ends("new")
    print(f"  beside each other: {upgrade.compare()}")
    upgrade.train("new")
    upgrade.stop("old", "worker", old_worker)
    upgrade.stop("old", "api", old_api)
    upgrade.wait_for_ends("new")
    print(f"back: {upgrade.old.command('migrate')}, says the old version")
    old_api, old_worker = upgrade.start("old", "api"), upgrade.start("old", "worker")
    upgrade.stop("new", "worker", new_worker)
    upgrade.train("old")
    upgrade.wait_for_ends("old")
    print(f"  beside each other: {upgrade.compare()}")
    upgrade.start("new", "worker")
    upgrade.stop("old", "worker", old_worker)
    upgrade.stop("old", "api", old_api)
    upgrade.train("new", 1)
    upgrade.wait_for_ends("new")


if __name__ == "__main__":
    main()
