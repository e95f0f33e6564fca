"""How soon a hint reaches an idle worker, and what the idle worker costs: `python -m benchmarks.broker [BROKER_URL ...]`.

Without a URL the embedded queue is measured. A real Celery worker runs in a process of its own; its task notes the time.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from app.queue import TRAIN_TASK, WORKER_OPTIONS, Queue, make_celery
from app.settings import Settings

HINTS = 60
IDLE_SECONDS = 15.0
DEVICE = "benchmark"


def main(urls: list[str]) -> None:
    print(f"{'broker':<14} {'start p50 ms':>13} {'p95 ms':>8} {'idle, % of a core':>18} {'worker MB':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for url in urls or [Settings(data_dir=Path(folder)).broker_url]:
            latencies, idle_share, megabytes = measure(url)
            print(
                f"{url.partition(':')[0]:<14} {statistics.median(latencies) * 1e3:>13.0f} "
                f"{statistics.quantiles(latencies, n=20)[-1] * 1e3:>8.0f} {idle_share * 100:>18.2f} {megabytes:>10.0f}"
            )


def measure(url: str) -> tuple[list[float], float, float]:
    """Seconds from `send` to the task for each hint, the idle worker's share of a core, and its resident megabytes."""
    hints = Queue(Settings(broker_url=url))
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.broker", "--worker", url], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        latencies = []
        for _ in range(HINTS + 1):
            sent = time.time()
            hints.send("0", DEVICE)
            latencies.append(float(worker.stdout.readline()) - sent)
            time.sleep(random.uniform(0.05, 0.2))
        before = cpu_seconds(worker.pid)
        time.sleep(IDLE_SECONDS)
        idle_share = (cpu_seconds(worker.pid) - before) / IDLE_SECONDS
        pages = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1])
        worker.terminate()
    hints.close()
    return latencies[1:], idle_share, pages * os.sysconf("SC_PAGE_SIZE") / 1e6  # the first waited for the worker's start


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def work(url: str) -> None:
    """The worker's own process."""
    stdout = sys.stdout  # Celery puts its log in place of it
    celery = make_celery(Settings(broker_url=url))

    @celery.task(name=TRAIN_TASK)
    def train(_training_id: str) -> None:
        print(time.time(), file=stdout, flush=True)

    celery.Worker(concurrency=1, queues=[DEVICE, "cpu"], **WORKER_OPTIONS).start()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2])
    else:
        main(sys.argv[1:])
