"""Ingest under kill -9: every acknowledged request is there, and no other one is there by half.

    python -m benchmarks.ingest_kills [sqlite] [postgresql] [--kills 200] [--clients 3] [--seed 0]

An API process serves clients that write without pause, each request some points of several series of two datasets' worth of chunks;
every second request corrects older points. The process is killed with SIGKILL, half of the times from outside at a random moment, half
by itself at a fault point inside the write (app/faults.py), and another takes over the same socket. At the end all is read back.

Each API process is forked from this one, which has imported everything: a start takes a tenth of a second in place of two.
"""

import argparse
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx

import migrations
from app import api_process, faults
from app.database import Database
from app.doctor import deep
from app.settings import Settings
from migrations import scratch

POSTGRES_URL = os.environ.get("ENGRAM_TEST_POSTGRES_URL", "postgresql://127.0.0.1:5432/postgres")
SERIES, POINTS, FIRST = 5, 7, 1_000
LIVE_SECONDS = (0.05, 0.5)
"""How long a process lives once it answers."""
ANSWER_SECONDS = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("databases", nargs="*", default=[], help="sqlite, postgresql; both if none is named")
    for name, default in (("kills", 200), ("clients", 3), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    databases = arguments.databases or ["sqlite", "postgresql"]
    if set(databases) - {"sqlite", "postgresql"}:
        parser.error("expected sqlite, postgresql or both")
    failed = [name for name in databases if run(name, arguments.kills, arguments.clients, arguments.seed)]
    sys.exit(1 if failed else 0)


def run(name: str, kills: int, clients: int, seed: int) -> bool:
    """Whether anything was lost or halved."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as stack,
        socket.create_server(("127.0.0.1", 0), backlog=512) as listener,
    ):
        url = stack.enter_context(scratch.make_postgres(POSTGRES_URL)) if name == "postgresql" else ""
        settings = Settings(data_dir=Path(folder), database_url=url, log_level="error", grace_seconds=2.0)
        database = Database(settings.database_url)
        migrations.upgrade(database)
        database.close()
        http = f"http://127.0.0.1:{listener.getsockname()[1]}"
        chance = random.Random(seed)
        pid = start(settings, listener, None)
        stack.callback(lambda: end(pid))
        httpx.put(f"{http}/v1/datasets/d", json={"freq": "step"}, timeout=ANSWER_SECONDS).raise_for_status()
        writers = [Writer(http, number, random.Random(seed + number)) for number in range(clients)]
        for writer in writers:
            stack.callback(writer.close)
        where: Counter[str] = Counter()
        begin = time.monotonic()
        for number in range(kills):
            end(pid)
            point = chance.choice(["write.merged", "write.flushed", "write.committed"]) if number % 2 else None
            pid = start(settings, listener, point)
            wait_for_answer(http)
            where[point or "from outside"] += 1
            if point is None:
                time.sleep(chance.uniform(*LIVE_SECONDS))
            else:
                os.waitpid(pid, 0)
                pid = 0
        end(pid)
        seconds = time.monotonic() - begin
        pid = start(settings, listener, None)
        for writer in writers:
            writer.close()
        found = read_all(http, clients)
        end(pid)
        pid = 0
        database = Database(settings.database_url)
        findings = [deep.check_pages(settings, database), deep.check_observations(settings, database)]
        database.close()
        return report(name, writers, found, where, findings, seconds)


def start(settings: Settings, listener: socket.socket, point: str | None) -> int:
    """An API process on the socket; with a `point` it kills itself when it comes there, after a few times."""
    pid = os.fork()
    if pid:
        return pid
    try:
        left = random.randint(1, 4)

        def count_down() -> None:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

        if point is not None:
            faults._armed[point] = count_down
        api_process.run(settings, fd=os.dup(listener.fileno()))
    finally:
        os._exit(1)


def end(pid: int) -> None:
    if pid:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def wait_for_answer(http: str) -> None:
    with suppress(httpx.TransportError):  # by one that kills itself it may be the last thing it hears
        httpx.get(f"{http}/health/live", timeout=ANSWER_SECONDS)


class Writer:
    """One client: a request after the other, each with a number in all its values; what was not acknowledged is not sent again."""

    def __init__(self, http: str, number: int, chance: random.Random) -> None:
        self.number = number
        self.requests: list[tuple[list[int], bool]] = []
        """(steps, whether acknowledged) of each request, in order; its values are its place here."""
        self.answers: Counter[str] = Counter()
        self._chance = chance
        self._ending = threading.Event()
        self._client = httpx.Client(base_url=http, timeout=ANSWER_SECONDS)
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join(ANSWER_SECONDS + 1)
        self._client.close()

    def _write(self) -> None:
        while not self._ending.is_set():
            number = len(self.requests)
            begin = number * POINTS if number % 2 == 0 else self._chance.randrange(max(1, number * POINTS))
            steps = list(range(FIRST + begin, FIRST + begin + POINTS))
            rows = [
                {"series": f"{self.number}-{series}", "timestamp": step, "value": float(number)}
                for series in range(SERIES)
                for step in steps
            ]
            try:
                answer = self._client.post("/v1/datasets/d/observations", json={"observations": rows})
                said = str(answer.status_code)
            except httpx.TransportError as error:
                said = type(error).__name__
            self.answers[said] += 1
            self.requests.append((steps, said == "200"))


def read_all(http: str, clients: int) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    with httpx.Client(base_url=http, timeout=120) as client:
        for name in (f"{number}-{series}" for number in range(clients) for series in range(SERIES)):
            answer = client.get("/v1/datasets/d/observations", params={"series": name})
            if answer.status_code == 404:  # on a busy machine kills may come before a client's first request is through
                found[name] = {}
                continue
            answer.raise_for_status()
            one = answer.json()["series"][0]
            found[name] = dict(zip(one["timestamps"], one["values"], strict=True))
    return found


def report(
    name: str,
    writers: list[Writer],
    found: dict[str, dict[int, float]],
    where: Counter[str],
    findings: list[deep.Finding],
    seconds: float,
) -> bool:
    lost = halved = 0
    for writer in writers:
        series = [found[f"{writer.number}-{number}"] for number in range(SERIES)]
        halved += sum(one != series[0] for one in series)
        lost += count_lost(writer, series[0])
    answers = sum((writer.answers for writer in writers), Counter[str]())
    acknowledged = answers["200"]
    print(
        f"{name}: {sum(where.values())} kills in {seconds:.0f} s ({', '.join(f'{point} {count}' for point, count in sorted(where.items()))})"
    )
    print(f"  requests: {acknowledged} acknowledged, {sum(answers.values()) - acknowledged} cut off; answers {dict(answers)}")
    print(
        f"  points acknowledged: {acknowledged * SERIES * POINTS}; requests lost or half there: {lost}; series that differ from their twins: {halved}"
    )
    for finding in findings:
        print(f"  doctor --deep: {finding.check} {finding.level}: {finding.found}")
    wrong = [said for said in answers if said.isdecimal() and said not in ("200", "503")]
    return bool(lost or halved or wrong or any(finding.level == "failure" for finding in findings))


def count_lost(writer: Writer, series: dict[int, float]) -> int:
    """Requests of which something is not as it must be. One that was cut off is there or not, and all of it: the next ones say which."""
    covered: set[int] = set()
    lost = 0
    for number in reversed(range(len(writer.requests))):
        steps, is_acknowledged = writer.requests[number]
        visible = [step for step in steps if step not in covered]
        is_there = [series.get(step) == float(number) for step in visible]
        if is_acknowledged or any(is_there):
            lost += not all(is_there)
            covered.update(steps)
    return lost


if __name__ == "__main__":
    main()
