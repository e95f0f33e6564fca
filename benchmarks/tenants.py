"""One workspace floods the service: what another notices of it, with a rate limit and without. Linux only.

    python -m benchmarks.tenants [--seconds 10] [--connections 16] [--limit 600]

The quiet workspace asks for its models, one request after the other; the other one does so on many connections as fast as it is answered.
Prints the quiet one's median and 99th percentile alone, beside a neighbour who keeps to the limit (what is let through costs the
same whoever sends it, so that this is the least that a limit can come to), beside the flood with that limit, beside the flood without one, and
alone again, all in one run of the service's processes on this machine: read the ratios, not the milliseconds.
"""

import argparse
import http.client
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PORT = 8340


def ask(connection: http.client.HTTPConnection, key: str) -> int:
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def flood(key: str, seconds: float, pause: float, answers: "multiprocessing.Queue[tuple[int, int]]") -> None:
    """Asks for so long, with a pause after each answer."""
    connection, counts = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60), [0, 0]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        counts[ask(connection, key) == 429] += 1
        time.sleep(pause)
    answers.put((counts[0], counts[1]))


def measure(key: str, seconds: float) -> tuple[float, float]:
    """(median, 99th percentile) in milliseconds."""
    connection, times = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60), []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        begin = time.perf_counter()
        assert ask(connection, key) == 200
        times.append((time.perf_counter() - begin) * 1e3)
        time.sleep(0.01)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--limit", type=int, default=600)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ENGRAM_DATA_DIR": folder}
        engram = [sys.executable, "-m", "app.cli"]

        def command(*arguments: str) -> str:
            done = subprocess.run([*engram, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
            return done.stdout.strip()

        keys = []
        for name in ("quiet", "loud"):
            command("workspaces", "create", name)
            keys.append(command("keys", "create", name, "--scopes=read", f"--workspace={name}"))
        api = subprocess.Popen(
            [*engram, "api", f"--port={PORT}"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while True:
                try:
                    if ask(http.client.HTTPConnection("127.0.0.1", PORT, timeout=5), keys[0]) == 200:
                        break
                except OSError:
                    time.sleep(0.2)
            alone = measure(keys[0], options.seconds)
            print(f"alone: median {alone[0]:.1f} ms, 99th percentile {alone[1]:.1f} ms")
            polite = 60 / options.limit
            for told, limit, connections, pause in (
                (f"a neighbour of {options.limit} a minute", 0, 1, polite),
                (f"{options.connections} connections, limit {options.limit} a minute", options.limit, options.connections, 0.0),
                (f"{options.connections} connections, no limit", 0, options.connections, 0.0),
                ("nobody, again", 0, 0, 0.0),
            ):
                command("workspaces", "limit", "loud", f"requests_per_minute={limit}")
                answers: multiprocessing.Queue[tuple[int, int]] = multiprocessing.Queue()
                loud = [
                    multiprocessing.Process(target=flood, args=(keys[1], options.seconds + 8, pause, answers))
                    for _ in range(connections)
                ]
                for process in loud:
                    process.start()
                time.sleep(7)  # until all of them have started, and have used up what a whole minute holds
                beside = measure(keys[0], options.seconds)
                counts = [answers.get() for _ in loud]
                for process in loud:
                    process.join()
                print(
                    f"beside {told}: median {beside[0]:.1f} ms ({beside[0] / alone[0]:.1f} times), "
                    f"99th percentile {beside[1]:.1f} ms ({beside[1] / alone[1]:.1f} times); "
                    f"{sum(one for one, _ in counts)} answers and {sum(one for _, one in counts)} 429 for the others",
                    flush=True,
                )
        finally:
            api.terminate()
            api.wait(30)


if __name__ == "__main__":
    main()
