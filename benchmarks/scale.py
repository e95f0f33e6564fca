"""Whether costs grow linearly: many short series and few long ones, ingested over HTTP, read for a training, and forecast whole.

    python -m benchmarks.scale [--share 1.0]

For each shape a quarter, a half and all of it, so that the seconds beside them show the growth; memory is the largest of the server
process and of the reading one. Embedded SQLite, one core with the client. Linux only.
"""

import argparse
import io
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import polars as pl

from benchmarks.side_by_side import find_port, serve

START = np.datetime64("2000-01-01T00:00:00", "us")
ROWS_AT_ONCE = 1_000_000
SHAPES = {"many short series": (100_000, 100), "few long series": (10, 1_000_000)}


def make_body(first: int, series: int, length: int) -> bytes:
    """Hourly values of two decimals as Parquet."""
    hours = np.tile(np.arange(length), series)
    values = np.round(100 + 20 * np.sin(hours * 2 * np.pi / 24) + np.random.default_rng(first).normal(0, 5, len(hours)), 2)
    names = np.repeat([f"s{number:06}" for number in range(first, first + series)], length)
    frame = pl.DataFrame({"series": names, "timestamp": START + hours * np.timedelta64(1, "h"), "value": values})
    buffer = io.BytesIO()
    frame.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC")).write_parquet(buffer)
    return buffer.getvalue()


def peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


READ = """
import sys, time, resource
from app.database import Database
from app.datasets import service
database = Database(sys.argv[1])
begin = time.perf_counter()
with database.read() as session:
    dataset = service.get_dataset(session, 1, "d")
    rows = service.select_series(session, dataset.id, None, None)
    found = service.read_for_training(session, [row.id for row in rows], 2**40)
print(time.perf_counter() - begin, len(found.values), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
"""


def measure(series: int, length: int) -> tuple[float, float, float, float]:
    """(seconds to ingest, seconds to read, peak MB of the server, peak MB of the reader)."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), find_port()
        environment = {**os.environ, "ENGRAM_DATA_DIR": name, "ENGRAM_LOG_LEVEL": "warning", "PYTHONPATH": str(Path.cwd())}
        engram = [sys.executable, "-m", "app.cli"]
        subprocess.run([*engram, "migrate"], env=environment, check=True, capture_output=True)
        at_once = max(1, ROWS_AT_ONCE // length)
        settings = {"ENGRAM_DATA_DIR": name, "ENGRAM_LOG_LEVEL": "warning", "POLARS_MAX_THREADS": "1"}
        with serve([*engram, "api", f"--port={port}"], port, "/health/live", folder, **settings) as process:
            spent = 0.0
            for first in range(0, series, at_once):
                body = make_body(first, min(at_once, series - first), length)
                begin = time.perf_counter()
                answer = httpx.post(
                    f"http://127.0.0.1:{port}/v1/datasets/d/observations",
                    content=body,
                    headers={"Content-Type": "application/vnd.apache.parquet"},
                    timeout=600,
                )
                spent += time.perf_counter() - begin
                answer.raise_for_status()
            peak = peak_mb(process.pid)
        url = f"sqlite:///{folder / 'engram.db'}"
        done = subprocess.run([sys.executable, "-c", READ, url], env=environment, check=True, capture_output=True, text=True)
        seconds, count, reader = map(float, done.stdout.split())
        if count != series * length:
            raise SystemExit(f"expected {series * length} values, found {count:.0f}")
        return spent, seconds, peak, reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of each shape's series")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{platform.machine()}, {os.cpu_count()} cores, pinned to one; load {os.getloadavg()[0]:.1f}")
    print(
        f"{'':<20}{'series':>9}{'length':>10}{'ingest s':>10}{'read s':>8}{'M points/s read':>17}{'server MB':>11}{'reader MB':>11}"
    )
    for name, (series, length) in SHAPES.items():
        for part in (0.25, 0.5, 1.0):
            count = max(1, round(series * part * arguments.share))
            ingest, read, server, reader = measure(count, length)
            speed = count * length / read / 1e6
            print(
                f"{name:<20}{count:>9}{length:>10}{ingest:>10.1f}{read:>8.2f}{speed:>17.1f}{server:>11.0f}{reader:>11.0f}",
                flush=True,
            )
    print(f"largest resident memory of this client, MB: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6:.0f}")


if __name__ == "__main__":
    main()
