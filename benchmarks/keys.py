"""What checking a key costs a request: requests a second over one kept connection, the API's CPU time, and the check alone. Linux only.

    python -m benchmarks.keys [--rounds 9] [--beside ../another/checkout]

Starts `engram serve` with a key made, and with --beside another checkout's (as it was before keys, say) without one; their rounds
alternate, so that what else the machine does meets both. Prints medians with their spread. ENGRAM_BENCH_POSTGRES_URL, a database that
may be written to, adds the check alone on PostgreSQL.
"""

import argparse
import http.client
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import migrations
from app.database import Database
from app.keys import service
from app.security import DEFAULT_WORKSPACE_ID, Gate
from app.settings import Settings

ROOT = Path(__file__).parent.parent
AIR = (ROOT / "examples" / "air_passengers.csv").read_bytes()
JSON = {"Content-Type": "application/json"}
REQUESTS = {
    "POST /v1/models/air/forecasts": ("POST", "/v1/models/air/forecasts", b"{}"),
    "GET /v1/models/air": ("GET", "/v1/models/air", None),
    "GET /health/live": ("GET", "/health/live", None),
}
A_ROUND = 200
TICKS = os.sysconf("SC_CLK_TCK")


class Served:
    """A running service with a trained model `air`."""

    def __init__(self, checkout: Path, port: int, folder: str, *, with_key: bool) -> None:
        self._environment = {**os.environ, "PYTHONPATH": str(checkout), "ENGRAM_DATA_DIR": folder}
        self._checkout = checkout
        self.headers: dict[str, str] = {}
        command = [sys.executable, "-m", "app.cli", "serve", f"--port={port}"]
        self._process = subprocess.Popen(
            command, cwd=checkout, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._wait_until_live()
        if with_key:
            keys = [sys.executable, "-m", "app.cli", "keys", "create", "bench", "--scopes=admin"]
            made = subprocess.run(keys, cwd=checkout, env=self._environment, capture_output=True, text=True, check=True)
            self.headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
        self.send("POST", "/v1/datasets/air/observations", AIR, {"Content-Type": "text/csv"})
        self.send("POST", "/v1/models/air/trainings", b'{"dataset": "air", "horizon": 12}', JSON)
        while b'"succeeded"' not in self.send("GET", "/v1/trainings", None):
            time.sleep(0.2)

    def send(self, method: str, path: str, body: bytes | None, headers: dict[str, str] | None = None) -> bytes:
        self._http.request(method, path, body, {**self.headers, **(headers or {})})
        answer = self._http.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {content[:300]!r}")
        return content

    def measure(self, name: str) -> tuple[float, float]:
        """(requests a second, milliseconds of the API's CPU for each, which other processes disturb less)."""
        method, path, body = REQUESTS[name]
        self._http.close()  # the other's rounds may have outlasted uvicorn's patience
        self.send("GET", "/health/live", None)
        begin, before = time.perf_counter(), self._count_ticks()
        for _ in range(A_ROUND):
            self.send(method, path, body, JSON if body else None)
        ticks = self._count_ticks() - before
        return A_ROUND / (time.perf_counter() - begin), ticks / TICKS / A_ROUND * 1e3

    def _count_ticks(self) -> int:
        """Of the API process, a child of the supervisor."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        api = next(child for child in children if b"\0api\0" in Path(f"/proc/{child}/cmdline").read_bytes())
        fields = Path(f"/proc/{api}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def stop(self) -> None:
        self._http.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)

    def _wait_until_live(self) -> None:
        while True:
            try:
                self.send("GET", "/health/live", None)
            except OSError:
                self._http.close()
                time.sleep(0.1)
            else:
                return


def measure_check(url: str, folder: str) -> float:
    """Microseconds of one check, in a thread that does nothing else."""
    database, settings = Database(url), Settings(data_dir=Path(folder), database_url=url, key_pepper="p" * 32)
    migrations.upgrade(database)
    with database.write() as session:
        _, key = service.create_key(session, b"p" * 32, DEFAULT_WORKSPACE_ID, name="bench", scopes=["read"], expires_at=None)
        session.commit()
    gate = Gate(database, settings)
    seconds = []
    for _ in range(2_000):
        begin = time.perf_counter()
        gate.identify(f"Bearer {key}")
        seconds.append(time.perf_counter() - begin)
    gate.close()
    database.close()
    return statistics.median(seconds) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--beside", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as there:
        urls = {"SQLite": f"sqlite:///{here}/check.db", "PostgreSQL": os.environ.get("ENGRAM_BENCH_POSTGRES_URL", "")}
        for name, url in urls.items():
            if url:
                print(f"the check alone, {name}: {measure_check(url, here):.0f} us")
        services = {"with a key": Served(ROOT, 18591, here, with_key=True)}
        if arguments.beside:
            services["beside, without"] = Served(arguments.beside.absolute(), 18592, there, with_key=False)
        measured: dict[tuple[str, str], list[tuple[float, float]]] = {}
        try:
            for _ in range(arguments.rounds + 1):
                for request in REQUESTS:
                    for name, served in services.items():
                        measured.setdefault((request, name), []).append(served.measure(request))
        finally:
            for served in services.values():
                served.stop()
        for (request, name), rounds in measured.items():
            rates, costs = zip(*rounds[1:], strict=True)  # the first round warms up
            told = [
                f"{statistics.median(each):.{digits}f} ({min(each):.{digits}f} .. {max(each):.{digits}f})"
                for each, digits in ((rates, 0), (costs, 2))
            ]
            print(f"{request:32} {name:16} {told[0]:>20} /s {told[1]:>24} ms of CPU")


if __name__ == "__main__":
    main()
