"""The embedded service as a person meets it: start, first training, idle cost, memory. Linux only (it reads /proc).

    python benchmarks/service.py [--rounds 5] [--idle-seconds 20]

Starts `engram serve` in an empty folder, pinned to one core with everything it starts, and prints medians with their spread.
"""

import argparse
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
AIR = (ROOT / "examples" / "air_passengers.csv").read_bytes()
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle-seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, pinned to one; Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.rounds, arguments.idle_seconds)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:{width}}  {text}")


def measure(folder: Path, rounds: int, idle_seconds: float) -> list[tuple[str, str]]:
    rows = []
    starts = []
    for _ in range(rounds + 1):
        seconds, process, http = start(folder)
        starts.append(seconds)
        if len(starts) <= rounds:
            stop(process, http)
    rows.append(("first answer on an existing folder, s (the first start also creates it)", show(starts)))
    http.post("/v1/datasets/air/observations", content=AIR, headers={"Content-Type": "text/csv"}).raise_for_status()
    rows.append(("idle before the first training, % of a core", f"{idle(process.pid, idle_seconds):.2f}"))
    trainings = [train(http) for _ in range(rounds)]
    rows.append(("air passengers, POST training to succeeded, s: the first", f"{trainings[0]:.2f}"))
    rows.append(("air passengers, POST training to succeeded, s: the others", show(trainings[1:])))
    begin = time.perf_counter()
    http.post("/v1/models/air/forecasts", json={}).raise_for_status()
    rows.append(("first forecast of the process (it loads torch), s", f"{time.perf_counter() - begin:.2f}"))
    begin = time.perf_counter()
    http.post("/v1/models/air/forecasts", json={}).raise_for_status()
    rows.append(("the next forecast, s", f"{time.perf_counter() - begin:.4f}"))
    rows.append(("idle between trainings, % of a core", f"{idle(process.pid, idle_seconds):.2f}"))
    for pid, name in list_tree(process.pid):
        rows.append((f"resident: {name}", f"{resident(pid) / 2**20:.0f} MiB"))
    stop(process, http)
    return rows


def start(folder: Path) -> tuple[float, subprocess.Popen[bytes], httpx.Client]:
    """Seconds until the first request is answered."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "app.cli", "serve", "--port=8791", f"--data-dir={folder}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    http = httpx.Client(base_url="http://127.0.0.1:8791", timeout=60)
    while True:
        try:
            http.get("/v1/datasets").raise_for_status()
        except httpx.TransportError:
            time.sleep(0.02)
        else:
            return time.perf_counter() - begin, process, http


def stop(process: subprocess.Popen[bytes], http: httpx.Client) -> None:
    http.close()
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def train(http: httpx.Client) -> float:
    begin = time.perf_counter()
    training: dict[str, Any] = http.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 12}).json()
    while training["status"] not in ("succeeded", "failed"):
        time.sleep(0.05)
        training = http.get(f"/v1/trainings/{training['id']}").json()
    if training["status"] == "failed":
        raise SystemExit(f"the training failed: {training['problem']}")
    return time.perf_counter() - begin


def idle(root: int, seconds: float) -> float:
    """CPU of the whole tree over `seconds`, in percent of one core."""
    time.sleep(3)
    before = sum(cpu_ticks(pid) for pid, _ in list_tree(root))
    time.sleep(seconds)
    after = sum(cpu_ticks(pid) for pid, _ in list_tree(root))
    return (after - before) / TICKS / seconds * 100


def list_tree(root: int) -> list[tuple[int, str]]:
    """(pid, what it is) of the process and all below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return [(pid, name(pid)) for pid in tree if Path(f"/proc/{pid}/cmdline").read_bytes()]


def name(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    for mark, title in (
        ("forkserver", "forkserver with torch"),
        ("resource_tracker", "multiprocessing's resource tracker"),
        ("-m workers", "Celery worker"),
        ("app.cli api", "API"),
        ("app.cli serve", "supervisor"),
    ):
        if mark in command:
            return title
    return command[:60]


def cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def show(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} .. {max(values):.2f})"


if __name__ == "__main__":
    main()
