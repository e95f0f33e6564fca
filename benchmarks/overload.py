"""Twice as much as the service sustains, for minutes: what it sheds, how long the rest takes, what memory does, and what is there at the end.

    python -m benchmarks.overload [--seconds 600] [--measure 20] [--database-url postgresql://...] [--at-once 256] [--seed 0]

`engram serve` on this machine, beside its load: 60 % writes of ten points, each answered once and never sent again, 38 % forecasts,
2 % requests for trainings (twenty models, so that an equal one may wait already, and is the answer). First by eight clients without a pause, which is what it sustains; then requests begin at twice that rate
whatever becomes of those before them.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.processes import Service, run_service

SERIES, POINTS, CLIENTS, TIMES = 50, 10, 8, 2.0
SAMPLES = 20
PATIENCE_SECONDS = 60.0


class Load:
    """What is asked, and what became of it."""

    def __init__(self, port: int, seed: int = 0) -> None:
        self._port = port
        self._chance = random.Random(seed)
        self._steps = [0] * SERIES
        self.written: dict[tuple[int, int], float] = {}
        self.trainings: set[str] = set()
        self.answers: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, list[float]] = {"write": [], "forecast": [], "training": []}
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def one(self) -> None:
        what = self._chance.choices(["write", "forecast", "training"], [60, 38, 2])[0]
        rows: list[dict[str, Any]] = []
        if what == "write":
            series = self._chance.randrange(SERIES)
            first, self._steps[series] = self._steps[series], self._steps[series] + POINTS
            rows = [
                {"series": f"s{series}", "timestamp": step, "value": float(step % 97)} for step in range(first, first + POINTS)
            ]
            path, body = "/v1/datasets/load/observations", {"observations": rows}
        elif what == "forecast":
            path, body = "/v1/models/air/forecasts", {}
        else:
            path, body = (
                f"/v1/models/air{self._chance.randrange(20)}/trainings",
                {"dataset": "air", "horizon": 3, "fit": {"max_steps": 20}},
            )
        begin = time.perf_counter()
        status, content = await self._post(path, json.dumps(body).encode())
        self.answers[what, status] += 1
        if status in ("200", "202"):
            self.seconds[what].append(time.perf_counter() - begin)
            if what == "training":
                self.trainings.add(json.loads(content)["id"])
            for row in rows:
                self.written[int(row["series"][1:]), row["timestamp"]] = row["value"]

    async def _post(self, path: str, body: bytes) -> tuple[str, bytes]:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        is_reused = bool(self._idle)
        try:
            reader, writer = self._idle.pop() if is_reused else await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(head.encode() + body)
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(answer.partition("content-length: ")[2].partition("\r\n")[0] or 0)
                content = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            if is_reused and not isinstance(error, TimeoutError) and not getattr(error, "partial", b""):
                self._idle.clear()  # the server had closed it while it was idle, and has read nothing
                return await self._post(path, body)
            return type(error).__name__, b""
        self._idle.append((reader, writer))
        return answer.split()[1], content


async def keep_busy(load: Load, seconds: float) -> float:
    """Requests a second, by clients that each wait for their answer."""
    end = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < end:
            await load.one()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return sum(load.answers.values()) / seconds


async def flood(load: Load, rate: float, seconds: float, sample: Callable[[], Awaitable[None]]) -> None:
    """Requests begin at `rate`, however many are still without an answer."""
    begin = time.monotonic()
    waiting: set[asyncio.Task[None]] = set()
    count = sampled = 0
    while (now := time.monotonic() - begin) < seconds:
        while count < now * rate:
            task = asyncio.create_task(load.one())
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            count += 1
        if now >= sampled * seconds / SAMPLES:
            sampled += 1
            await sample()
        await asyncio.sleep(0.005)
    await asyncio.gather(*waiting)


def read_rss(pid: int) -> float:
    """Resident megabytes."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def find_part(supervisor: int, word: str) -> int:
    for path in Path(f"/proc/{supervisor}/task").glob("*/children"):
        for pid in path.read_text().split():
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return int(pid)
    raise SystemExit(f"no process of {word} was found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--measure", type=float, default=20.0)
    parser.add_argument("--at-once", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database-url", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "ENGRAM_DATA_DIR": folder,
            "ENGRAM_DATABASE_URL": arguments.database_url,
            "ENGRAM_MAX_REQUESTS_AT_ONCE": str(arguments.at_once),
            "ENGRAM_LOG_LEVEL": "error",
        }
        with run_service(environment, Path(folder)) as service:
            supervisor = service.serve().pid
            sys.exit(1 if run(service, [find_part(supervisor, word) for word in ("api", "workers")], arguments) else 0)


def run(service: Service, pids: list[int], arguments: argparse.Namespace) -> bool:
    """Whether something that was acknowledged is not there, or something was answered that is no answer."""
    air = (Path(__file__).parent.parent / "examples" / "air_passengers.csv").read_bytes()
    service.post("/v1/datasets/air/observations", content=air, headers={"Content-Type": "text/csv"}).raise_for_status()
    service.http.put("/v1/datasets/load", json={"freq": "step"}).raise_for_status()
    assert service.train("air", dataset="air", horizon=3, fit={"max_steps": 20})["status"] == "succeeded"
    service.post("/v1/models/air/forecasts", json={}).raise_for_status()  # loads torch
    port = int(service.http.base_url.port or 0)
    megabytes: list[list[float]] = []

    async def sample() -> None:
        megabytes.append([read_rss(pid) for pid in pids])

    async def both() -> tuple[Load, float]:
        load = Load(port, arguments.seed)
        rate = await keep_busy(load, arguments.measure)
        load.answers.clear()
        for seconds in load.seconds.values():
            seconds.clear()
        await flood(load, TIMES * rate, arguments.seconds, sample)
        return load, rate

    load, rate = asyncio.run(both())
    print(
        f"sustained {rate:.0f} requests/s with {CLIENTS} clients; then {TIMES * rate:.0f}/s for {arguments.seconds:.0f} s, at most {arguments.at_once} at once"
    )
    total = Counter[str]()
    for what in ("write", "forecast", "training"):
        by_status = {status: count for (one, status), count in sorted(load.answers.items()) if one == what}
        total.update(by_status)
        seconds = sorted(load.seconds[what]) or [0.0]
        p50, p99 = statistics.median(seconds), seconds[int(0.99 * (len(seconds) - 1))]
        print(f"  {what}: {by_status}; accepted p50 {p50:.2f} s, p99 {p99:.2f} s, longest {seconds[-1]:.2f} s")
    shed = total["503"] + total["429"]
    print(f"  shed {100 * shed / sum(total.values()):.0f} %; seed {arguments.seed}")
    for place, part in enumerate(("API", "worker")):
        print(
            f"  {part} memory, MB, every {arguments.seconds / SAMPLES:.0f} s: {' '.join(f'{one[place]:.0f}' for one in megabytes)}"
        )
    found = read_all(service)
    lost = sum(found.get(place) != value for place, value in load.written.items())
    print(f"  points acknowledged {len(load.written)}, lost {lost}; stored {len(found)}")
    ends = Counter(service.wait_for_end(training_id)["status"] for training_id in sorted(load.trainings))
    print(f"  trainings acknowledged {len(load.trainings)}; ended {dict(ends)}")
    lost += len(load.trainings) - ends["succeeded"]
    wrong = set(total) - {"200", "202", "503", "429"}
    if wrong:
        print(f"  answers that are none: {sorted(wrong)}")
    return bool(lost or wrong)


def read_all(service: Service) -> dict[tuple[int, int], float]:
    service.wait_for(lambda: service.get("/health/ready").status_code == 200)
    found = {}
    for series in range(SERIES):
        answer = service.get("/v1/datasets/load/observations", params={"series": f"s{series}"})
        if answer.status_code == 404:
            continue
        one = answer.json()["series"][0]
        found |= {(series, step): value for step, value in zip(one["timestamps"], one["values"], strict=True)}
    return found


if __name__ == "__main__":
    main()
