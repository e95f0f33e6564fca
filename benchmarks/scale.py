"""Whether costs grow linearly: many short series and few long ones, ingested over HTTP, read for a training, and forecast whole.

    python -m benchmarks.scale [--share 1.0]

For each shape a quarter, a half and all of it, so that the seconds beside them show the growth; memory is the largest of the server
process after the ingest, of the reading one, and of the server after the forecast of all series, one stream of NDJSON by a model that a worker
trained on ten of them. Embedded SQLite, one core with the client. Linux only.
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

HORIZON, TRAINED = 24, 10
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


def train(client: httpx.Client, engram: list[str], environment: dict[str, str], series: int) -> None:
    """A model `m`, by a worker that lives as long as the training."""
    body = {
        "dataset": "d",
        "horizon": HORIZON,
        "series": [f"s{number:06}" for number in range(min(TRAINED, series))],
        "fit": {"max_steps": 20},
    }
    training = client.post("/v1/models/m/trainings", json=body).raise_for_status().json()
    worker = subprocess.Popen([*engram, "worker"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while training["status"] not in ("succeeded", "failed"):
            time.sleep(0.2)
            training = client.get(f"/v1/trainings/{training['id']}").json()
    finally:
        worker.terminate()
        worker.wait()
    if training["status"] == "failed":
        raise SystemExit(f"the training failed: {training['problem']}")


def forecast_all(client: httpx.Client) -> tuple[float, int]:
    """Seconds, and how many series were answered."""
    begin, lines = time.perf_counter(), 0
    with client.stream("GET", "/v1/models/m/forecasts", headers={"Accept": "application/x-ndjson"}) as answer:
        answer.raise_for_status()
        for part in answer.iter_raw():
            lines += part.count(b"\n")
    return time.perf_counter() - begin, lines


def measure(series: int, length: int) -> dict[str, float]:
    """Seconds and largest memory in MB of each step."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), find_port()
        environment = {**os.environ, "ENGRAM_DATA_DIR": name, "ENGRAM_LOG_LEVEL": "warning", "PYTHONPATH": str(Path.cwd())}
        engram = [sys.executable, "-m", "app.cli"]
        subprocess.run([*engram, "migrate"], env=environment, check=True, capture_output=True)
        at_once = max(1, ROWS_AT_ONCE // length)
        settings = {"ENGRAM_DATA_DIR": name, "ENGRAM_LOG_LEVEL": "warning", "POLARS_MAX_THREADS": "1"}
        with (
            serve([*engram, "api", f"--port={port}"], port, "/health/live", folder, **settings) as process,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client,
        ):
            found["ingest s"] = 0.0
            for first in range(0, series, at_once):
                body = make_body(first, min(at_once, series - first), length)
                begin = time.perf_counter()
                answer = client.post(
                    "/v1/datasets/d/observations", content=body, headers={"Content-Type": "application/vnd.apache.parquet"}
                )
                found["ingest s"] += time.perf_counter() - begin
                answer.raise_for_status()
            found["server MB"] = peak_mb(process.pid)
            url = f"sqlite:///{folder / 'engram.db'}"
            done = subprocess.run(
                [sys.executable, "-c", READ, url], env=environment, check=True, capture_output=True, text=True
            )
            found["read s"], count, found["reader MB"] = map(float, done.stdout.split())
            if count != series * length:
                raise SystemExit(f"expected {series * length} values, found {count:.0f}")
            train(client, engram, environment, series)
            found["forecast s"], answered = forecast_all(client)
            if answered != series:
                raise SystemExit(f"expected forecasts of {series} series, found {answered}")
            found["then MB"] = peak_mb(process.pid)
    return found


COLUMNS = ("ingest s", "server MB", "read s", "reader MB", "forecast s", "then MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of each shape's series")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{platform.machine()}, {os.cpu_count()} cores, pinned to one; load {os.getloadavg()[0]:.1f}")
    print(f"{'':<20}{'series':>9}{'length':>10}" + "".join(f"{name:>12}" for name in COLUMNS))
    for name, (series, length) in SHAPES.items():
        for part in (0.25, 0.5, 1.0):
            count = max(1, round(series * part * arguments.share))
            found = measure(count, length)
            cells = "".join(f"{found[column]:>12.{2 if column.endswith(' s') else 0}f}" for column in COLUMNS)
            print(f"{name:<20}{count:>9}{length:>10}{cells}", flush=True)
    print(f"largest resident memory of this client, MB: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6:.0f}")


if __name__ == "__main__":
    main()
