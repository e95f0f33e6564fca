"""How fast observations go in over HTTP and come out for a training, and what they take on disk.

    python -m benchmarks.ingest [--series 1000] [--length 1000] [--repeats 5]

Posts to a real API process, held to one core where the system allows it, on embedded SQLite and, if
ENGRAM_BENCH_POSTGRES_URL names a server, on a PostgreSQL database of its own. Every post goes to a new dataset.
"""

import argparse
import io
import os
import platform
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import polars as pl
import psycopg
import sqlalchemy as sa

import migrations
from app import api_process
from app.database import Database
from app.datasets import formats, service
from app.settings import Settings

START = np.datetime64("2024-01-01T00:00:00", "us")


def run_server() -> None:
    """The process that `engram api` starts, held to one core; its settings come from the environment."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    api_process.run(Settings())


def make_bodies(series: int, length: int) -> dict[str, tuple[str, bytes]]:
    """Hourly values of two decimals with a day's season, in each format that the floors name, and the day's next hour."""
    hours = np.tile(np.arange(length), series)
    noise = np.random.default_rng(0).normal(0, 5, len(hours))
    frame = pl.DataFrame(
        {
            "series": np.repeat([f"series-{number:05}" for number in range(series)], length),
            "timestamp": START + hours * np.timedelta64(1, "h"),
            "value": np.round(100 + 20 * np.sin(hours * 2 * np.pi / 24) + noise, 2),
        }
    ).with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
    last = frame.group_by("series", maintain_order=True).last().with_columns(pl.col("timestamp") + pl.duration(hours=1))
    return {
        "Parquet": (formats.PARQUET, _to_parquet(frame)),
        "Arrow stream": (formats.ARROW, _to_arrow(frame)),
        "CSV": (formats.CSV, frame.write_csv(datetime_format="%Y-%m-%dT%H:%M:%SZ").encode()),
        "JSON rows": (formats.JSON, _to_json(frame)),
        "one more step of each series": (formats.PARQUET, _to_parquet(last)),
    }


def _to_parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _to_arrow(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer)
    return buffer.getvalue()


def _to_json(frame: pl.DataFrame) -> bytes:
    rows = frame.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_json()
    return b'{"observations": ' + rows.encode() + b"}"


@contextmanager
def serve(database_url: str, folder: Path) -> Iterator[str]:
    """The URL of a fresh API process on that database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "ENGRAM_DATABASE_URL": database_url, "ENGRAM_DATA_DIR": str(folder), "POLARS_MAX_THREADS": "1"}
    environment["ENGRAM_MAX_JSON_BYTES"] = str(1 << 28)  # a million rows as JSON are more than a service takes by itself
    environment |= {"ENGRAM_PORT": str(port), "ENGRAM_LOG_LEVEL": "error"}
    command = [sys.executable, "-c", "from benchmarks.ingest import run_server; run_server()"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _await(lambda: httpx.get(f"{url}/v1/datasets").status_code == 200)
            yield url
        finally:
            process.terminate()


def _await(is_ready: Callable[[], bool]) -> None:
    for _ in range(200):
        try:
            if is_ready():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError("the server did not answer within 20 s")


@contextmanager
def make_databases(folder: Path) -> Iterator[dict[str, str]]:
    """The URLs of fresh databases, by name."""
    urls = {"SQLite": f"sqlite:///{folder / 'engram.db'}"}
    server = os.environ.get("ENGRAM_BENCH_POSTGRES_URL")
    if server is None:
        yield urls
        return
    name = f"engram_bench_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield {**urls, "PostgreSQL": sa.make_url(server).set(database=name).render_as_string(hide_password=False)}
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def measure(
    url: str,
    database_url: str,
    folder: Path,
    bodies: dict[str, tuple[str, bytes]],
    rows: list[tuple[str, int, float]],
    repeats: int,
) -> dict[str, list[float]]:
    """Seconds of every repeat, by what was done; the raw way of the database takes turns with ours."""
    seconds: dict[str, list[float]] = {}
    database = Database(database_url)
    with httpx.Client(base_url=url, timeout=300) as client:
        post_to(client, "warm", bodies["CSV"])
        for repeat in range(repeats):
            raw = insert_raw(folder, rows) if database_url.startswith("sqlite") else copy_raw(database_url, rows)
            seconds.setdefault("raw rows: executemany, or binary COPY", []).append(raw)
            for name, body in bodies.items():
                dataset = f"parquet-{repeat}" if name.startswith("one more") else f"{name.lower().replace(' ', '-')}-{repeat}"
                seconds.setdefault(f"post {name}", []).append(post_to(client, dataset, body))
            seconds.setdefault("post Parquet again, unchanged", []).append(
                post_to(client, f"parquet-{repeat}", bodies["Parquet"])
            )
            started = time.perf_counter()
            read_whole(database, f"parquet-{repeat}")
            seconds.setdefault("read whole for a training", []).append(time.perf_counter() - started)
    database.close()
    return seconds


def post_to(client: httpx.Client, dataset: str, body: tuple[str, bytes]) -> float:
    started = time.perf_counter()
    answer = client.post(
        f"/v1/datasets/{dataset}/observations?on_conflict=replace", content=body[1], headers={"content-type": body[0]}
    )
    if answer.status_code != 200:
        raise RuntimeError(answer.text)
    return time.perf_counter() - started


def insert_raw(folder: Path, rows: list[tuple[str, int, float]]) -> float:
    """What sqlite3 alone takes to insert the same rows with executemany."""
    with closing(sqlite3.connect(folder / f"raw-{uuid4().hex}.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE observations (series TEXT, timestamp INTEGER, value REAL)")
        started = time.perf_counter()
        with connection:
            connection.executemany("INSERT INTO observations VALUES (?, ?, ?)", rows)
        return time.perf_counter() - started


def copy_raw(database_url: str, rows: list[tuple[str, int, float]]) -> float:
    """What PostgreSQL takes for the same rows by binary COPY, into a table that outlives a crash as ours does."""
    url = sa.make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE IF EXISTS raw")
        connection.execute("CREATE TABLE raw (series text, at bigint, value double precision)")
        connection.commit()
        started = time.perf_counter()
        with connection.cursor().copy("COPY raw FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["text", "int8", "float8"])
            for row in rows:
                copy.write_row(row)
        connection.commit()
        return time.perf_counter() - started


def make_rows(series: int, length: int) -> list[tuple[str, int, float]]:
    values = np.round(np.random.default_rng(0).normal(100, 5, series * length), 2).tolist()
    return [(f"series-{at // length:05}", at % length * 3_600_000_000, values[at]) for at in range(series * length)]


def read_whole(database: Database, dataset: str) -> int:
    with database.read() as session:
        found = service.get_dataset(session, 1, dataset)
        rows = service.select_series(session, found.id, None, None)
        return len(service.read_for_training(session, [row.id for row in rows], 2**40).values)


def measure_bytes(database_url: str) -> float:
    """Bytes of chunk data for each stored observation."""
    database = Database(database_url)
    with database.read() as session:
        stored = session.execute(
            sa.text("SELECT (SELECT sum(length(data)) FROM chunks) * 1.0 / (SELECT sum(count) FROM series)")
        ).scalar_one()
    database.close()
    return float(stored)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures ingest and reading.")
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(
        f"{options.series} series x {options.length} hourly observations; {os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    )
    bodies, rows = make_bodies(options.series, options.length), make_rows(options.series, options.length)
    with tempfile.TemporaryDirectory() as folder, make_databases(Path(folder)) as urls:
        for name, url in urls.items():
            database = Database(url)
            migrations.upgrade(database)
            database.close()
            with serve(url, Path(folder)) as server:
                seconds = measure(server, url, Path(folder), bodies, rows, options.repeats)
            print(f"\n{name}: {measure_bytes(url):.2f} bytes a stored observation")
            print(f"{'':<40}{'median':>9}{'fastest':>9}{'slowest':>9}  times as fast as the raw rows")
            raw = next(iter(seconds.values()))
            for what, found in seconds.items():
                ratios = [one / other for one, other in zip(raw, found, strict=True)]
                told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
                print(f"{what:<40}{statistics.median(found):>8.3f}s{min(found):>8.3f}s{max(found):>8.3f}s  {told}")


if __name__ == "__main__":
    main()
