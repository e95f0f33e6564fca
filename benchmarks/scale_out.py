"""How far more processes help on one machine: workers that drain trainings, API processes that serve forecasts.

    python -m benchmarks.scale_out [--workers 1 2 4] [--apis 1 2] [--trainings 200] [--seconds 10] [--clients 16]

Needs a PostgreSQL (ENGRAM_TEST_POSTGRES_URL) and a Redis (ENGRAM_TEST_REDIS_URL), whose queues it empties. Everything runs on one
machine, the client and both servers too, so each row says how busy the cores were.
"""

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import redis

from app.queue import QUEUES
from migrations import scratch
from tests.processes import Service, run_service

POSTGRES_URL = os.environ.get("ENGRAM_TEST_POSTGRES_URL", "postgresql://127.0.0.1:5432/postgres")
REDIS_URL = os.environ.get("ENGRAM_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
AIR = (Path(__file__).parent.parent / "examples" / "air_passengers.csv").read_bytes()
TRAINING = {"dataset": "air", "horizon": 12, "fit": {"max_steps": 30}}
DRAIN_SECONDS = 900.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4], help="none: the table of the APIs alone")
    parser.add_argument("--apis", type=int, nargs="*", default=[1, 2], help="none: the table of the workers alone")
    parser.add_argument("--trainings", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores; busy before it began: {measure_idle():.2f} of them")
    if arguments.workers:
        print(f"\n{'workers':>8} {'trainings':>10} {'seconds':>8} {'per second':>11} {'cores busy':>11}")
    for workers in arguments.workers:
        with run_parts() as (service, database_url):
            seconds, busy = drain(service, database_url, workers, arguments.trainings)
        print(
            f"{workers:>8} {arguments.trainings:>10} {seconds:>8.1f} {arguments.trainings / seconds:>11.2f} {busy:>11.2f}",
            flush=True,
        )
    if arguments.apis:
        print(f"\n{'APIs':>8} {'clients':>10} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'cores busy':>11}")
    for apis in arguments.apis:
        with run_parts() as (service, _):
            rate, p50, p99, busy = serve(service, apis, arguments.clients, arguments.seconds)
        print(f"{apis:>8} {arguments.clients:>10} {rate:>11.0f} {p50 * 1e3:>8.1f} {p99 * 1e3:>8.1f} {busy:>11.2f}", flush=True)


@contextmanager
def run_parts() -> Iterator[tuple[Service, str]]:
    with (
        scratch.make_postgres(POSTGRES_URL) as database_url,
        tempfile.TemporaryDirectory() as folder,
        redis.Redis.from_url(REDIS_URL) as broker,
    ):
        broker.delete(*QUEUES)
        urls = {"ENGRAM_DATABASE_URL": database_url, "ENGRAM_BROKER_URL": REDIS_URL, "ENGRAM_DATA_DIR": folder}
        settings = {"ENGRAM_SWEEP_SECONDS": "5", "ENGRAM_HINT_SECONDS": "30", "ENGRAM_LOG_LEVEL": "warning"}
        with run_service({**urls, **settings}, Path(folder)) as service:
            service.migrate()
            yield service, database_url
        broker.delete(*QUEUES)


def post_air(service: Service) -> None:
    service.post("/v1/datasets/air/observations", content=AIR, headers={"Content-Type": "text/csv"}).raise_for_status()


def drain(service: Service, database_url: str, workers: int, trainings: int) -> tuple[float, float]:
    """(seconds from the first claim to the last end, cores busy meanwhile). Each worker has trained once before."""
    service.start_api()
    post_air(service)
    for number in range(workers):
        service.start("worker", "--queues=cpu")
        service.wait_for(lambda count=number + 1: len(service.get("/v1/system").json()["workers"]) == count)
    warm = [service.post(f"/v1/models/warm{number}/trainings", json=TRAINING).json()["id"] for number in range(2 * workers)]
    for training_id in warm:
        service.wait_for_end(training_id)
    with busy_cores() as busy:
        ids = [service.post(f"/v1/models/m{number}/trainings", json=TRAINING).json()["id"] for number in range(trainings)]
        service.wait_for(
            lambda: service.get("/v1/system").json()["trainings"]["succeeded"] == len(ids) + len(warm), DRAIN_SECONDS
        )
    with psycopg.connect(database_url) as connection:
        query = "SELECT extract(epoch FROM max(finished_at) - min(started_at)) FROM trainings WHERE public_id = ANY(%s)"
        row = connection.execute(query, (ids,)).fetchone()
    assert row is not None
    return float(row[0]), busy[0]


def serve(service: Service, apis: int, clients: int, seconds: float) -> tuple[float, float, float, float]:
    """(requests a second, p50 and p99 in seconds, cores busy) of forecasts of one series by clients that each wait for the answer."""
    service.start_api(f"--processes={apis}")
    post_air(service)
    worker = service.start("worker", "--queues=cpu")
    assert service.train("air", **TRAINING)["status"] == "succeeded"
    worker.send_signal(signal.SIGTERM)
    worker.wait()
    url = service.http.base_url
    asyncio.run(ask(url.host, url.port or 80, clients, 2.0))  # each process loads torch and the model with its first one
    with busy_cores() as busy:
        latencies = asyncio.run(ask(url.host, url.port or 80, clients, seconds))
    cuts = statistics.quantiles(latencies, n=100)
    return len(latencies) / seconds, cuts[49], cuts[98], busy[0]


async def ask(host: str, port: int, clients: int, seconds: float) -> list[float]:
    """Seconds of each answer. A client of twenty lines: httpx would take more of the cores than what is measured."""
    body = b'{"horizon": 12}'
    head = "POST /v1/models/air/forecasts HTTP/1.1\r\nHost: engram\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        while (begin := time.perf_counter()) < end:
            writer.write(request)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not answer.startswith(b"http/1.1 200"):
                raise SystemExit(f"expected 200, found {answer.decode()}")
            await reader.readexactly(int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0]))
            latencies.append(time.perf_counter() - begin)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return latencies


@contextmanager
def busy_cores() -> Iterator[list[float]]:
    """How many cores of the whole machine were busy in the mean, once it is left."""
    busy: list[float] = []
    begin, before = time.perf_counter(), read_busy()
    yield busy
    busy.append((read_busy() - before) / (time.perf_counter() - begin))


def measure_idle() -> float:
    with busy_cores() as busy:
        time.sleep(3)
    return busy[0]


def read_busy() -> float:
    """Seconds of CPU that all processes have used since the machine started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
