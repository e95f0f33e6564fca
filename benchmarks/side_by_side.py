"""Servers in processes of their own, a client that costs next to nothing, and things that take turns before it."""

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np

ROOT = Path(__file__).parent.parent

Requests = Callable[[int], bytes]
"""The bytes of the client's n-th request, connection kept."""


async def ask(port: int, make: Requests, clients: int, seconds: float) -> list[float]:
    """Seconds of each answer, of clients that each wait for theirs. A client of twenty lines: httpx would take most of the core."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    number = 0

    async def client() -> None:
        nonlocal number
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (begin := time.perf_counter()) < end:
            number += 1
            writer.write(make(number))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
            if not head.startswith(b"http/1.1 200"):
                raise SystemExit(f"expected 200, found {head.decode()}{body.decode()[:500]}")
            latencies.append(time.perf_counter() - begin)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return latencies


def request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(command: Sequence[str], port: int, path: str, folder: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process of its own, until it answers `path`."""
    with (folder / f"{port}.log").open("wb") as log:
        settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{folder}", **environment}
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **settings}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(600):
            try:
                httpx.get(f"http://127.0.0.1:{port}{path}")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            raise SystemExit((folder / f"{port}.log").read_text()[-2000:])
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # processes of its own that it left behind


def resident(pid: int) -> float:
    """MB of a process's resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have used."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


class Measured:
    """Rates and latencies of things that take turns."""

    def __init__(self, seconds: float, rounds: int) -> None:
        self.seconds, self.rounds = seconds, rounds
        self.rates: dict[str, list[float]] = {}
        self.latencies: dict[str, list[float]] = {}
        self.costs: dict[str, list[float]] = {}

    def run(self, things: dict[str, tuple[tuple[int, int], Requests, int]]) -> None:
        """name -> ((port, pid), requests, clients): one warm-up each, then in turn, `rounds` times."""
        for (port, _), make, clients in things.values():
            asyncio.run(ask(port, make, clients, min(1.0, self.seconds)))
        for _ in range(self.rounds):
            for name, ((port, pid), make, clients) in things.items():
                begin, before = time.perf_counter(), cpu_seconds(pid)
                latencies = asyncio.run(ask(port, make, clients, self.seconds))
                self.rates.setdefault(name, []).append(len(latencies) / (time.perf_counter() - begin))
                self.costs.setdefault(name, []).append((cpu_seconds(pid) - before) / len(latencies))
                self.latencies.setdefault(name, []).extend(latencies)

    def cost(self, name: str, of: str) -> str:
        """The server's CPU for a request over that of the other, which other work on the machine disturbs less than rates."""
        ratios = [one / other for one, other in zip(self.costs[name], self.costs[of], strict=True)]
        return f"CPU {statistics.median(ratios):.2f}x"

    def ratio(self, name: str, of: str) -> str:
        """Of the rates, round by round: median (lowest .. highest)."""
        ratios = [one / other for one, other in zip(self.rates[name], self.rates[of], strict=True)]
        return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f})"

    def percentile(self, name: str, share: float) -> float:
        return float(np.quantile(self.latencies[name], share))
