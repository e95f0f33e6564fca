"""Every part stopped and started again, one after the other, while clients ask: which requests fail, and what of trainings is lost.

    python -m benchmarks.restarts [--rounds 2] [--clients 6] [--pause 120]

Two APIs behind what a load balancer does (each in turn; where no connection is made, the other), two workers and a scheduler on
PostgreSQL (ENGRAM_TEST_POSTGRES_URL) and Redis (ENGRAM_TEST_REDIS_URL, whose queues it empties). Each part gets SIGTERM, has to exit
with 0, and is started again, under writes, forecasts and requests for trainings. In the end a worker is paused (SIGSTOP) for
`--pause` seconds, longer than its lease, and let go on.
"""

import argparse
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import httpx
import psycopg

from benchmarks.scale_out import post_air, run_parts
from benchmarks.side_by_side import find_port
from tests.processes import Service

TRAINING = {"dataset": "air", "horizon": 6, "fit": {"max_steps": 200}}
PAUSE_SECONDS = 0.1
"""Between two requests of a client."""
TRAINING_EVERY = 40
SETTLE_SECONDS = 600.0
UNDER_LOAD_SECONDS = 3.0


class Clients:
    """Each stores an observation and asks for a forecast in turn, and now and then for a training. Counts what became of each request."""

    def __init__(self, front: list[str], count: int) -> None:
        self._front = front
        self.answers: Counter[str] = Counter()
        self.stored: set[tuple[str, int]] = set()
        self.trainings: list[str] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(f"s{number}",)) for number in range(count)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _run(self, series: str) -> None:
        with httpx.Client(timeout=60) as http:
            for step in itertools.count():
                if self._ending.wait(PAUSE_SECONDS):
                    return
                row = {"series": series, "timestamp": step, "value": 1.0}
                if self._ask(http, step, "/v1/datasets/stream/observations", {"observations": [row]}) is not None:
                    with self._lock:
                        self.stored.add((series, step))
                self._ask(http, step + 1, "/v1/models/first/forecasts", {})
                if step % TRAINING_EVERY == 0:
                    answer = self._ask(http, step, f"/v1/models/{series}-{step}/trainings", TRAINING)
                    if answer is not None:
                        with self._lock:
                            self.trainings.append(answer.json()["id"])

    def _ask(self, http: httpx.Client, turn: int, path: str, body: dict[str, object]) -> httpx.Response | None:
        """The answer, if it says that it was done."""
        for place in (turn, turn + 1):
            try:
                answer = http.post(self._front[place % len(self._front)] + path, json=body)
            except httpx.ConnectError:
                self._count("no connection: sent to the other API")
                continue
            except httpx.TransportError as error:
                self._count(f"FAILED: {type(error).__name__} {error}")
                return None
            is_done = answer.status_code in (200, 202)
            self._count(str(answer.status_code) if is_done else f"FAILED: {answer.status_code}")
            return answer if is_done else None
        self._count("FAILED: no API took a connection")
        return None

    def _count(self, what: str) -> None:
        with self._lock:
            self.answers[what] += 1


class Parts:
    """Two APIs, two workers and a scheduler, each stopped and started by name."""

    def __init__(self, service: Service, database_url: str) -> None:
        self._service = service
        self._database_url = database_url
        self._ports = {"api 1": find_port(), "api 2": find_port()}
        self.front = [f"http://127.0.0.1:{port}" for port in self._ports.values()]
        service.http.base_url = httpx.URL(self.front[0])
        self.processes: dict[str, subprocess.Popen[str]] = {}
        for name in ("api 1", "api 2", "worker 1", "worker 2", "scheduler"):
            self.start(name)

    def start(self, name: str) -> None:
        arguments = [f"--port={self._ports[name]}"] if name in self._ports else []
        self.processes[name] = process = self._service.start(name.split()[0], *arguments)
        if name in self._ports:
            url = f"http://127.0.0.1:{self._ports[name]}/health/ready"
            self._service.wait_for(lambda: httpx.get(url).status_code == 200)
        else:
            self._service.wait_for(lambda: f"-{process.pid}'" in self._list_parts())

    def stop(self, name: str) -> int:
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(60)

    def _list_parts(self) -> str:
        with psycopg.connect(self._database_url) as connection:
            return str(connection.execute("SELECT name FROM workers UNION SELECT name FROM schedulers").fetchall())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--pause", type=float, default=120.0, help="0: no pause")
    arguments = parser.parse_args()
    with run_parts() as (service, database_url):
        parts = Parts(service, database_url)
        post_air(service)
        service.http.put("/v1/datasets/stream", json={"freq": "step"}).raise_for_status()
        assert service.train("first", **TRAINING)["status"] == "succeeded"
        for url in parts.front:  # each loads the model with its first forecast
            httpx.post(f"{url}/v1/models/first/forecasts", json={}, timeout=60).raise_for_status()
        with Clients(parts.front, arguments.clients) as clients:
            time.sleep(UNDER_LOAD_SECONDS)
            codes = [restart(parts, name) for _ in range(arguments.rounds) for name in tuple(parts.processes)]
            answers = dict(clients.answers)
            if arguments.pause:
                pause(parts, arguments.pause)
        print(f"  answers while parts were restarted: {answers}")
        failed = report(service, database_url, clients) or any(codes)
    sys.exit(failed)


def restart(parts: Parts, name: str) -> int:
    begin = time.monotonic()
    code = parts.stop(name)
    stopped = time.monotonic()
    parts.start(name)
    print(
        f"  {name}: stopped in {stopped - begin:.1f} s with exit code {code}, there again after {time.monotonic() - stopped:.1f} s",
        flush=True,
    )
    time.sleep(UNDER_LOAD_SECONDS)
    return code


def pause(parts: Parts, seconds: float) -> None:
    parts.processes["worker 1"].send_signal(signal.SIGSTOP)
    print(f"  worker 1 is paused for {seconds:g} s", flush=True)
    time.sleep(seconds)
    parts.processes["worker 1"].send_signal(signal.SIGCONT)
    time.sleep(UNDER_LOAD_SECONDS)
    print(f"  worker 1 goes on: {'alive' if parts.processes['worker 1'].poll() is None else 'ENDED'}", flush=True)


def report(service: Service, database_url: str, clients: Clients) -> bool:
    """Whether anything failed, was lost or done twice."""
    query = (
        "SELECT t.public_id, t.status, t.attempt, t.lost_attempts, count(v.id) FROM trainings t "
        "LEFT JOIN versions v ON v.training_id = t.id GROUP BY t.id"
    )
    left = {"queued", "running"}
    deadline = time.monotonic() + SETTLE_SECONDS
    rows: dict[str, tuple[str, int, int, int]] = {}
    while time.monotonic() < deadline:
        with psycopg.connect(database_url) as connection:
            rows = {one[0]: one[1:] for one in connection.execute(query).fetchall()}
        if not any(status in left for status, *_ in rows.values()):
            break
        time.sleep(0.5)
    print(f"  requests: {dict(clients.answers)}", flush=True)
    found = read_stored(service)
    failed = {what: count for what, count in clients.answers.items() if what.startswith("FAILED")}
    lost = [id_ for id_ in clients.trainings if rows[id_][0] != "succeeded"]
    doubled = [id_ for id_ in clients.trainings if rows[id_][3] > 1]
    gone = clients.stored - found
    print(
        f"  trainings: {len(clients.trainings)} accepted, {len(lost)} lost, {len(doubled)} with two versions; "
        f"attempts {dict(sorted(Counter(rows[id_][1] for id_ in clients.trainings).items()))}, "
        f"of them lost {sum(rows[id_][2] for id_ in clients.trainings)}"
    )
    print(f"  observations: {len(clients.stored)} acknowledged, {len(gone)} lost; requests failed: {sum(failed.values())}")
    return bool(failed or lost or doubled or gone)


def read_stored(service: Service) -> set[tuple[str, int]]:
    answer = service.get("/v1/datasets/stream/observations", params={"limit": 1000}).json()
    return {(one["id"], step) for one in answer["series"] for step in one["timestamps"]}


if __name__ == "__main__":
    main()
