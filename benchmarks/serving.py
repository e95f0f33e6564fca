"""How near forecasts are to a FastAPI no-op, on one core, client and server together.

    python -m benchmarks.serving [--seconds 2] [--rounds 5] [--models 1000] [--folder DIR]

Every row is a ratio of things that ran in turn within this run. The no-op is a bare FastAPI app with one `async def` route on the same
uvicorn; ours is `engram api` as the product starts it, with a model trained by defaults; the naive service is the same model as torch
modules behind a `def` route with dicts. Linux only.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.side_by_side import ROOT, Measured, Requests, find_port, request, resident, serve

SERIES, LENGTH, HORIZON = 1000, 400, 48
TRAINED = 20
CONTEXT = 168
CLIENTS = 16
BODIES = 256
"""Different contexts: nothing may be answered from memory where the model is measured."""
START = np.datetime64("2024-01-01T00:00:00", "s")


def make_values(count: int, length: int) -> np.ndarray:
    """Hourly values of two decimals with a day's season, [count, length]."""
    hours = np.arange(length)
    noise = np.random.default_rng(0).normal(0, 5, (count, length))
    return np.round(100 + 20 * np.sin(hours * 2 * np.pi / 24 + np.arange(count)[:, None]) + noise, 2)


def make_contexts() -> list[bytes]:
    values = make_values(BODIES, CONTEXT)
    return [
        json.dumps({"context": [{"id": "x", "start": "2024-01-01T00:00:00Z", "values": row.tolist()}]}).encode()
        for row in values
    ]


NO_OP = """
from fastapi import FastAPI
app = FastAPI()
@app.get("/")
async def no_op(): return {"ok": True}
"""

TORCH_MODEL = """
import os, numpy as np, torch
import app.lstm.cell, app.lstm.fitted, app.lstm.inputs
from app.lstm.config import Config
from app.lstm.forecaster import Forecaster, load_with_torch
torch.set_num_threads(1)
for room in (app.lstm.inputs, app.lstm.fitted, app.lstm.cell):
    room.load_library = lambda: None  # torch alone: not even the windows are prepared by compiled code
compiled = Forecaster.from_bytes(open(os.environ["BENCH_ARTIFACT"], "rb").read())
config = Config.from_dict(compiled.config)
forecaster = Forecaster(config, {}, load_with_torch(config, compiled._tensors, "cpu"))
levels = [str(level) for level in forecaster.quantile_levels]
def forecast(contexts):
    with torch.no_grad():
        answers = forecaster.predict(np.array(contexts, dtype=float))
    return [{level: answer[:, k].tolist() for k, level in enumerate(levels)} for answer in answers]
"""
"""The same model behind everything that is not ours."""
NAIVE = """
from fastapi import FastAPI
from pydantic import BaseModel
import torch_model
class Context(BaseModel):
    id: str
    start: str
    values: list[float | None]
class Asked(BaseModel):
    context: list[Context]
app = FastAPI()
@app.post("/")
def forecast(asked: Asked) -> dict:
    answers = torch_model.forecast([one.values for one in asked.context])
    return {"forecasts": [{"series": one.id, "quantiles": answer} for one, answer in zip(asked.context, answers)]}
"""


@contextmanager
def run_ours(folder: Path, **settings: str) -> Iterator[tuple[int, int]]:
    """(port, pid) of `engram api` on the folder's database."""
    port = find_port()
    command = [sys.executable, "-m", "app.cli", "api", f"--port={port}"]
    data = {"ENGRAM_DATA_DIR": str(folder / "data"), "ENGRAM_LOG_LEVEL": "warning", **settings}
    with serve(command, port, "/health/live", folder, **data) as process:
        yield port, process.pid


def prepare(folder: Path) -> None:
    """A database with SERIES stored series and a model `m` trained by defaults on some of them."""
    environment = {
        **os.environ,
        "ENGRAM_DATA_DIR": str(folder / "data"),
        "ENGRAM_LOG_LEVEL": "warning",
        "PYTHONPATH": str(ROOT),
    }
    port = find_port()
    command = [sys.executable, "-m", "app.cli", "serve", f"--port={port}"]
    values = make_values(SERIES, LENGTH)
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=300, transport=httpx.HTTPTransport(retries=50)
            ) as http:
                while True:
                    try:
                        http.get("/v1/datasets").raise_for_status()
                        break
                    except httpx.TransportError:
                        time.sleep(0.2)
                for at in range(0, SERIES, 250):
                    series = [
                        {"id": f"s{number:04}", "start": "2024-01-01T00:00:00Z", "freq": "h", "values": values[number].tolist()}
                        for number in range(at, at + 250)
                    ]
                    http.post("/v1/datasets/d/observations", json={"series": series}).raise_for_status()
                body = {"dataset": "d", "horizon": HORIZON, "series": [f"s{number:04}" for number in range(TRAINED)]}
                training: dict[str, Any] = http.post("/v1/models/m/trainings", json=body).json()
                while training["status"] not in ("succeeded", "failed"):
                    time.sleep(0.2)
                    training = http.get(f"/v1/trainings/{training['id']}").json()
                if training["status"] == "failed":
                    raise SystemExit(f"the training failed: {training['problem']}")
                (folder / "artifact").write_bytes(http.get("/v1/models/m/versions/1/artifact").content)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def measure_speed(folder: Path, seconds: float, rounds: int) -> None:
    contexts = [request("POST", "/v1/models/m/forecasts", body) for body in make_contexts()]
    naive_contexts = [request("POST", "/", body) for body in make_contexts()]
    stored = [request("POST", "/v1/models/m/forecasts", json.dumps({"series": [f"s{n:04}"]}).encode()) for n in range(SERIES)]

    def pairs(number: int) -> bytes:
        """A new point of a series and its forecast: by turns, so that the one client sends the pair one after the other."""
        index, is_forecast = divmod(number - 1, 2)
        if is_forecast:
            return stored[index % SERIES]
        at = START + np.timedelta64(LENGTH + index // SERIES, "h")
        point = {"series": f"s{index % SERIES:04}", "timestamp": f"{at}Z", "value": 100.0 + index % 7}
        return request("POST", "/v1/datasets/d/observations", json.dumps({"observations": [point]}).encode())

    (folder / "no_op.py").write_text(NO_OP)
    (folder / "torch_model.py").write_text(TORCH_MODEL)
    (folder / "naive.py").write_text(NAIVE)
    ports = [find_port(), find_port()]
    uvicorn = [sys.executable, "-m", "uvicorn", "--log-level=error"]
    with (
        serve([*uvicorn, f"--port={ports[0]}", "no_op:app"], ports[0], "/", folder) as no_op_process,
        serve(
            [*uvicorn, f"--port={ports[1]}", "naive:app"], ports[1], "/", folder, BENCH_ARTIFACT=str(folder / "artifact")
        ) as other,
        run_ours(folder) as ours,
        run_ours(folder, ENGRAM_ANSWER_CACHE_BYTES="0") as uncached,
    ):
        plain, naive = (ports[0], no_op_process.pid), (ports[1], other.pid)
        no_op: Requests = lambda _: request("GET", "/")  # noqa: E731
        found = Measured(seconds, rounds)
        found.run(
            {
                "no-op": (plain, no_op, CLIENTS),
                "inline": (ours, lambda n: contexts[n % BODIES], CLIENTS),
                "stored": (ours, lambda n: stored[n % 100], CLIENTS),
                "stored, cache off": (uncached, lambda n: stored[n % 100], CLIENTS),
                "naive": (naive, lambda n: naive_contexts[n % BODIES], CLIENTS),
            }
        )
        found.run(
            {
                "no-op, 1 client": (plain, no_op, 1),
                "inline, 1 client": (ours, lambda n: contexts[n % BODIES], 1),
                "pairs": (ours, pairs, 1),
            }
        )
        print(f"\nno-op: {statistics.median(found.rates['no-op']):.0f} requests/s of {CLIENTS} clients")
        rows = [
            (
                "inline context, 16 clients, of the no-op",
                f"{found.ratio('inline', 'no-op')} {found.cost('inline', 'no-op')}",
                "0.40",
            )
        ]
        p50 = [found.percentile(name, 0.5) for name in ("inline, 1 client", "no-op, 1 client")]
        rows.append(("inline context, 1 client, p50 over the no-op's", f"{p50[0] / p50[1]:.1f} ({p50[0] * 1e3:.2f} ms)", "6"))
        rows.append(
            ("stored, unchanged, of the no-op", f"{found.ratio('stored', 'no-op')} {found.cost('stored', 'no-op')}", "0.60")
        )
        rows.append(
            (
                "stored, answer cache off, of the no-op",
                f"{found.ratio('stored, cache off', 'no-op')} {found.cost('stored, cache off', 'no-op')}",
                "0.30",
            )
        )
        halves = [rate / 2 for rate in found.rates["pairs"]]
        found.rates["pairs of two"] = halves
        rows.append(
            (
                "a new point and its forecast, pairs, of the no-op at 1 client",
                found.ratio("pairs of two", "no-op, 1 client"),
                "0.05",
            )
        )
        rows.append(
            ("inline, 16 clients, p99 / p50", f"{found.percentile('inline', 0.99) / found.percentile('inline', 0.5):.1f}", "5")
        )
        rows.append(("inline, of the naive service", found.ratio("inline", "naive"), "8"))
        show(rows)


def measure_many(folder: Path, rounds: int) -> None:
    """1,000 stored series in one request, after a new point of each, so that neither answer nor context is kept."""
    with run_ours(folder, ENGRAM_ANSWER_CACHE_BYTES="0", ENGRAM_CONTEXT_CACHE_BYTES="0") as (port, _):
        http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300)
        body = {"series": [f"s{number:04}" for number in range(SERIES)]}
        seconds = []
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            http.post("/v1/models/m/forecasts", json=body).raise_for_status()
            seconds.append(time.perf_counter() - begin)
        rates = [SERIES / each for each in seconds[1:]]
        show(
            [
                (
                    "1,000 stored series in one request, series/s",
                    f"{statistics.median(rates):.0f} ({min(rates):.0f} .. {max(rates):.0f})",
                    "5000",
                )
            ]
        )


def measure_memory(folder: Path, models: int) -> None:
    """Resident memory, and what the first forecast of a version costs; `models` copies of the model under other names."""
    copy_models(folder, models)
    with run_ours(folder) as (port, pid):
        http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300)
        http.get("/v1/datasets").raise_for_status()
        idle = resident(pid)
        http.post("/v1/models/m/forecasts", json={"series": ["s0000"]}).raise_for_status()
        one = resident(pid)
        cold, warm = [], []
        for number in range(models):
            for kept in (cold, warm):
                begin = time.perf_counter()
                http.post(
                    f"/v1/models/m{number}/forecasts",
                    json={"series": [f"s{number % 100:04}"], "horizon": HORIZON - (kept is warm)},
                )
                kept.append(time.perf_counter() - begin)
        extra = [1e3 * (first - second) for first, second in zip(cold, warm, strict=True)]
        show(
            [
                ("resident before torch is loaded, MB", f"{idle:.0f}", "120"),
                ("resident with one model, MB", f"{one:.0f}", "350"),
                (f"resident after {models} models were used, MB", f"{resident(pid):.0f}", "700"),
                (
                    "cold version, ms over a warm one",
                    f"{statistics.median(extra):.1f} (p95 {np.quantile(extra, 0.95):.1f})",
                    "10",
                ),
            ]
        )


def copy_models(folder: Path, models: int) -> None:
    import sqlite3

    with sqlite3.connect(folder / "data" / "engram.db") as connection:

        def copy(table: str, id_: int, **changed: object) -> int:
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "id"]
            row = connection.execute(f"SELECT {', '.join(names)} FROM {table} WHERE id = ?", (id_,)).fetchone()  # noqa: S608 - our own names
            values = [changed.get(name, value) for name, value in zip(names, row, strict=True)]
            marks = ", ".join("?" * len(names))
            insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - our own names
            return int(connection.execute(insert, values).lastrowid or 0)

        ids = [
            connection.execute(f"SELECT min(id) FROM {table}").fetchone()[0]  # noqa: S608 - our own names
            for table in ("models", "versions", "artifacts", "aliases")
        ]
        for number in range(models):
            model = copy("models", ids[0], name=f"m{number}")
            version = copy("versions", ids[1], model_id=model, training_id=None)
            copy("artifacts", ids[2], version_id=version)
            copy("aliases", ids[3], model_id=model, version_id=version)


def show(rows: Sequence[tuple[str, str, str]]) -> None:
    for name, text, floor in rows:
        print(f"{name:<66} {text:<44} floor {floor}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=int, default=1000, help="0 leaves memory and cold versions out")
    parser.add_argument("--folder", type=Path, help="where the trained model is kept for another run")
    arguments = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = (arguments.folder or Path(name)).absolute()
        if not (folder / "artifact").exists():
            folder.mkdir(parents=True, exist_ok=True)
            prepare(folder)
        os.sched_setaffinity(0, {core})
        busy = os.getloadavg()[0]
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, pinned to one with its client; Python {platform.python_version()}; load {busy:.1f}"
        )
        measure_speed(folder, arguments.seconds, arguments.rounds)
        measure_many(folder, arguments.rounds)
        if arguments.models:
            measure_memory(folder, arguments.models)


if __name__ == "__main__":
    main()
