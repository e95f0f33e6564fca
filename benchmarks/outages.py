"""What is lost or doubled when the network or any process goes away while trainings run, observations come and forecasts are served.

    python -m benchmarks.outages [network] [kills] [--trainings 40] [--seconds 20]

`network`: parts and servers stand on two sides of a router that swallows every packet for `--seconds`. `kills`: every process, the
servers too, is killed with SIGKILL and started again in turn. It starts a PostgreSQL and a Redis of its own in a network namespace,
and so needs Linux, root, `ip` (iproute2), `initdb` and `postgres`, and `redis-server`; what is missing is said, and nothing is run.
"""

import argparse
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.processes import Service, run_service

ROUTER, SERVERS = f"engram-router-{os.getpid()}", f"engram-servers-{os.getpid()}"
CABLE = f"engram-{os.getpid()}"
HERE, THERE = "10.231.17", "10.231.18"
POSTGRES_BIN = Path(max(map(str, Path("/usr/lib/postgresql").glob("*/bin")), default="/usr/bin"))
ANSWER_SECONDS = 30.0
SETTLE_SECONDS = 300.0
STEP = {"fit": {"max_steps": 60}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help="network, kills; both if none is named")
    parser.add_argument("--trainings", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    scenarios = arguments.scenarios or ["network", "kills"]
    if set(scenarios) - {"network", "kills"}:
        parser.error("expected network, kills or both")
    if missing := find_missing():
        print(f"skipped: {missing}")
        return
    failed = False
    for scenario in scenarios:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, run_network(), Servers(Path(folder)) as servers:
            urls = {"ENGRAM_DATABASE_URL": servers.database_url, "ENGRAM_BROKER_URL": servers.broker_url}
            with run_service({**urls, "ENGRAM_DATA_DIR": folder}, Path(folder)) as service:
                failed |= run(scenario, service, servers, arguments.trainings, arguments.seconds)
    sys.exit(1 if failed else 0)


def find_missing() -> str | None:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    absent = [tool for tool in ("ip", "runuser", "redis-server") if shutil.which(tool) is None]
    absent += [tool for tool in ("initdb", "postgres") if not (POSTGRES_BIN / tool).exists()]
    if absent:
        return f"{', '.join(absent)} not found (iproute2, util-linux, redis-server, postgresql)"
    probe = subprocess.run(["ip", "netns", "add", ROUTER], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"no network namespace can be made: {probe.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", ROUTER], check=True)
    return None


def ip(*arguments: str, inside: str | None = None) -> None:
    subprocess.run(["ip", *(["-n", inside] if inside else []), *arguments], check=True)


def set_forwarding(on: bool) -> None:
    """Off: the router takes packets and sends none on, without a word to either side."""
    command = f"echo {int(on)} > /proc/sys/net/ipv4/ip_forward"
    subprocess.run(["ip", "netns", "exec", ROUTER, "sh", "-c", command], check=True)


@contextmanager
def run_network() -> Iterator[None]:
    """Here (.1) - router - servers (.2), each pair a virtual cable."""
    try:
        for name in (ROUTER, SERVERS):
            ip("netns", "add", name)
            ip("link", "set", "lo", "up", inside=name)
        ip("link", "add", CABLE, "type", "veth", "peer", "name", "here", "netns", ROUTER)
        ip("link", "add", "there", "netns", ROUTER, "type", "veth", "peer", "name", "engram", "netns", SERVERS)
        for device, address, inside in (
            (CABLE, f"{HERE}.1/24", None),
            ("here", f"{HERE}.2/24", ROUTER),
            ("there", f"{THERE}.1/24", ROUTER),
            ("engram", f"{THERE}.2/24", SERVERS),
        ):
            ip("address", "add", address, "dev", device, inside=inside)
            ip("link", "set", device, "up", inside=inside)
        ip("route", "add", f"{THERE}.0/24", "via", f"{HERE}.2")
        ip("route", "add", "default", "via", f"{THERE}.1", inside=SERVERS)
        set_forwarding(True)
        yield
    finally:
        for name in (ROUTER, SERVERS):
            subprocess.run(["ip", "netns", "delete", name], check=False)
        subprocess.run(["ip", "link", "delete", CABLE], check=False, capture_output=True)


class Servers:
    """A PostgreSQL and a Redis of our own, in the namespace of the servers."""

    database_url = f"postgresql://postgres@{THERE}.2:5499/postgres"
    broker_url = f"redis://{THERE}.2:6399/0"

    def __init__(self, folder: Path) -> None:
        self._data, self._folder = folder / "postgres", folder
        self.postgres: subprocess.Popen[bytes] | None = None
        self.redis: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Servers":
        user = pwd.getpwnam("postgres")
        self._folder.chmod(0o755)
        self._data.mkdir()
        os.chown(self._data, user.pw_uid, user.pw_gid)
        initdb = [POSTGRES_BIN / "initdb", "-D", self._data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]
        subprocess.run(["runuser", "-u", "postgres", "--", *map(str, initdb)], check=True, capture_output=True)
        with (self._data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 0.0.0.0/0 trust\n")
        self.start_postgres()
        self.start_redis()
        return self

    def __exit__(self, *_: object) -> None:
        for process, number in ((self.postgres, signal.SIGINT), (self.redis, signal.SIGTERM)):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, number)
                process.wait(30)

    def start_postgres(self) -> None:
        command = [POSTGRES_BIN / "postgres", "-D", self._data, "-h", f"{THERE}.2", "-p", "5499", "-k", self._data]
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self.postgres is None or self.postgres.poll() is not None:  # one that was killed may still have children
                self.postgres = self._start("runuser", "-u", "postgres", "--", *map(str, command))
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.database_url, connect_timeout=2).close()
                return
            time.sleep(0.1)
        raise SystemExit("PostgreSQL did not start")

    def start_redis(self) -> None:
        self.redis = self._start(
            "redis-server", "--bind", f"{THERE}.2", "--port", "6399", "--save", "", "--protected-mode", "no"
        )

    def kill(self, process: subprocess.Popen[bytes] | None) -> None:
        assert process is not None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["ip", "netns", "exec", SERVERS, *command],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


class Clients:
    """What goes on all the while: one client stores an observation after the other, another asks for forecasts."""

    def __init__(self, service: Service) -> None:
        self._url = service.http.base_url
        self.stored: dict[int, float] = {}
        self.answers: dict[str, Counter[str]] = {"ingest": Counter(), "forecast": Counter()}
        self.slowest: dict[str, float] = {"ingest": 0.0, "forecast": 0.0}
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ingest), threading.Thread(target=self._forecast)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _ingest(self) -> None:
        with httpx.Client(base_url=self._url, timeout=ANSWER_SECONDS) as http:
            step = 0
            while not self._ending.is_set():
                row = {"series": "a", "timestamp": step, "value": float(step % 97)}
                if self._ask(http, "ingest", "/v1/datasets/stream/observations", {"observations": [row]}):
                    self.stored[step] = row["value"]  # type: ignore[assignment]
                    step += 1
                self._ending.wait(0.05)

    def _forecast(self) -> None:
        with httpx.Client(base_url=self._url, timeout=ANSWER_SECONDS) as http:
            while not self._ending.is_set():
                self._ask(http, "forecast", "/v1/models/first/forecasts", {})
                self._ending.wait(0.05)

    def _ask(self, http: httpx.Client, what: str, path: str, body: dict[str, Any]) -> bool:
        begin = time.monotonic()
        try:
            answer = str(http.post(path, json=body).status_code)
        except httpx.TransportError as error:
            answer = type(error).__name__
        self.slowest[what] = max(self.slowest[what], time.monotonic() - begin)
        self.answers[what][answer] += 1
        return answer == "200"


def run(scenario: str, service: Service, servers: Servers, trainings: int, seconds: float) -> bool:
    """Whether anything was lost or doubled."""
    service.migrate()
    parts = {"api": service.start_api("--processes=2")}
    parts |= {name: service.start(name.split()[0]) for name in ("worker 1", "worker 2", "scheduler")}
    air = (Path(__file__).parent.parent / "examples" / "air_passengers.csv").read_bytes()
    service.post("/v1/datasets/air/observations", content=air, headers={"Content-Type": "text/csv"}).raise_for_status()
    service.http.put("/v1/datasets/stream", json={"freq": "step"}).raise_for_status()
    assert service.train("first", dataset="air", horizon=6, **STEP)["status"] == "succeeded"
    ids = [
        service.post(f"/v1/models/m{number}/trainings", json={"dataset": "air", "horizon": 6, **STEP}).json()["id"]
        for number in range(trainings)
    ]
    print(f"\n{scenario}: {trainings} trainings wait for 2 workers, 2 API processes serve")
    with Clients(service) as clients:
        time.sleep(3)
        if scenario == "network":
            cut_network(service, seconds)
        else:
            kill_all(service, parts, servers)
        ended = wait_for_ends(service, ids)
        time.sleep(2)
    return report(service, clients, servers, ids, ended)


def cut_network(service: Service, seconds: float) -> None:
    set_forwarding(False)
    print(f"  the network swallows everything for {seconds:g} s")
    time.sleep(seconds)
    set_forwarding(True)
    begin = time.monotonic()
    service.wait_for(lambda: service.get("/health/ready").status_code == 200)
    print(f"  ready {time.monotonic() - begin:.1f} s after the network was back")


def kill_all(service: Service, parts: dict[str, "subprocess.Popen[str]"], servers: Servers) -> None:
    api = parts["api"]
    for pid in Path(f"/proc/{api.pid}/task/{api.pid}/children").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
        print("  killed an API process; `engram api` starts it again")
        time.sleep(4)
    for name in ("worker 1", "worker 2", "scheduler"):
        parts[name].kill()
        parts[name].wait()
        service.start(name.split()[0])
        print(f"  killed {name} and started another")
        time.sleep(6)
    api.kill()
    api.wait()
    port = str(service.http.base_url.port)
    service.wait_for(lambda: service.start("api", f"--port={port}", "--processes=2").poll() is None)
    service.wait_for(lambda: service.get("/health/ready").status_code == 200)
    print("  killed `engram api` with its processes and started another")
    servers.kill(servers.redis)
    servers.start_redis()
    print("  killed Redis, with all it held, and started another")
    time.sleep(6)
    servers.kill(servers.postgres)
    servers.start_postgres()
    print("  killed PostgreSQL and started it again")


def wait_for_ends(service: Service, ids: list[str]) -> dict[str, dict[str, Any]]:
    ended: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + SETTLE_SECONDS
    while len(ended) < len(ids) and time.monotonic() < deadline:
        for training_id in ids:
            with suppress(httpx.TransportError):
                answer = service.get(f"/v1/trainings/{training_id}")
                if answer.status_code == 200 and answer.json()["status"] in ("succeeded", "failed", "cancelled"):
                    ended[training_id] = answer.json()
        time.sleep(1)
    return ended


def report(service: Service, clients: Clients, servers: Servers, ids: list[str], ended: dict[str, dict[str, Any]]) -> bool:
    with psycopg.connect(servers.database_url) as connection:
        query = "SELECT t.public_id, count(v.id) FROM trainings t LEFT JOIN versions v ON v.training_id = t.id GROUP BY 1"
        versions = dict(connection.execute(query).fetchall())
    answer = service.get("/v1/datasets/stream/observations").json()["series"][0]
    found = dict(zip(answer["timestamps"], answer["values"], strict=True))
    lost = [training_id for training_id in ids if ended.get(training_id, {}).get("status") != "succeeded"]
    doubled = [training_id for training_id in ids if versions.get(training_id, 0) > 1]
    gone = [step for step, value in clients.stored.items() if found.get(step) != value]
    attempts = Counter(training["attempt"] for training in ended.values())
    print(
        f"  trainings: {len(ids)} accepted, {len(lost)} lost, {len(doubled)} with two versions; attempts {dict(sorted(attempts.items()))}"
    )
    for training_id in lost:
        print(f"    {training_id}: {ended.get(training_id, {}).get('problem') or 'not ended'}")
    doubles = len(answer["timestamps"]) - len(found)
    print(f"  observations: {len(clients.stored)} acknowledged, {len(gone)} lost, {doubles} doubled")
    for what, answers in clients.answers.items():
        print(f"  {what}: answers {dict(answers)}, the slowest after {clients.slowest[what]:.1f} s")
    return bool(lost or doubled or gone or doubles)


if __name__ == "__main__":
    main()
