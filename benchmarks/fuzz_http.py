"""Damaged bodies through HTTP, to a service of its own: no answer may be a 5xx, and memory must stay flat but for what the caches of the
process take, which have a limit each. Linux only.

    python -m benchmarks.fuzz_http [--inputs 100000] [--first 0] [--kinds json,gzip,zstd] [--connections 8] [--seconds 3600] [--port 8350]

`json` are bodies of eight routes, each damaged from whole ones of that route; `gzip` and `zstd` are tables of observations, packed and then
damaged, or damaged and then packed, in turn. The connections are kept alive. Starts `engram serve` in a folder of its own with a dataset,
a model, a key and small limits of a training, as benchmarks/conformance.py does, and prints for each kind: how many answers of each status,
those that were a 5xx, connections that broke, and the memory of the API's process after a tenth, a half and all of the inputs, with how
much of it its caches hold by their own count: of each training that succeeds on the way, a version is loaded, up to
ENGRAM_FORECASTER_CACHE_BYTES. With a small value of it, memory must stay flat.
"""

import argparse
import gzip
import http.client
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path

import httpx
import orjson
import zstandard

from app import contract
from benchmarks.conformance import ROOT, SMALL, fill, make_key
from benchmarks.mutations import make_samples, mutate

PACK = {"gzip": gzip.compress, "zstd": zstandard.compress}
CACHED = re.compile(r"^engram_(?:forecaster|answer)_cache_bytes (\S+)$", re.MULTILINE)
MEASURED = 20
"""How often the memory is read in one kind."""
OBSERVATIONS = make_samples()["json"]
JSON_ROUTES: list[tuple[str, str, list[bytes]]] = [
    ("POST", "/v1/datasets/fuzz/observations", OBSERVATIONS),
    ("POST", "/v1/datasets/fuzz/observations/preview", OBSERVATIONS),
    (
        "PUT",
        "/v1/datasets/fuzz",
        [b'{"freq": "h", "time_zone": "Europe/Berlin"}', b'{"description": "\xc3\xa4", "aggregate": "mean"}'],
    ),
    (
        "POST",
        "/v1/models/air/trainings",
        [
            b'{"dataset": "air", "horizon": 3, "fit": {"max_steps": 5, "seed": 1}, "network": {"hidden_size": 8}, "quantile_levels": [0.1]}',
            b'{"dataset": "air", "horizon": 2, "series": ["air"], "end": "1959-01-01", "fit": {"max_steps": 5}, "backtest": {"n_windows": 2}}',
            b'{"dataset": "air", "horizon": 2, "fit": {"max_steps": 5}, "search": {"trials": 2, "space": {"hidden_size": [8, 16]}}}',
        ],
    ),
    (
        "POST",
        "/v1/models/air/forecasts",
        [
            b'{"context": [{"id": "x", "start": "2024-01-01", "values": [1, 2, null]}], "horizon": 2, "version": "champion"}',
            b'{"series": ["air"], "horizon": 3, "quantile_levels": [0.1, 0.5], "version": 1, "cutoff": "1959-01-01T00:00:00Z"}',
        ],
    ),
    ("POST", "/v1/keys", [b'{"name": "k", "scopes": ["read"], "expires_at": "2027-01-01T00:00:00Z"}']),
    ("PUT", "/v1/models/air/aliases/fuzz", [b'{"version": 1}']),
    ("POST", "/session", [orjson.dumps({"key": "engram_k3v9x0a2b_" + "x" * 43})]),
]
TABLES = make_samples()["csv"]
PACKED = {kind: [pack(table) for table in TABLES] for kind, pack in PACK.items()}


def make_request(kind: str, number: int) -> tuple[str, str, bytes, dict[str, str]]:
    """(method, path, body, headers) that `number` stands for."""
    if kind == "json":
        method, path, samples = JSON_ROUTES[number % len(JSON_ROUTES)]
        return method, path, mutate(samples, number), {"Content-Type": contract.JSON}
    body = PACK[kind](mutate(TABLES, number)) if number % 2 else mutate(PACKED[kind], number)
    return "POST", "/v1/datasets/packed/observations", body, {"Content-Type": contract.CSV, "Content-Encoding": kind}


def send_all(kind: str, options: argparse.Namespace, key: str, pid: int) -> None:
    statuses, sizes, odd, broken = Counter[int](), list[tuple[int, int]](), list[str](), list[str]()
    numbers, lock = count(options.first), threading.Lock()
    end, deadline = options.first + options.inputs, time.monotonic() + options.seconds

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", options.port, timeout=120)
        while (number := next(numbers)) < end and time.monotonic() < deadline:
            method, path, body, headers = make_request(kind, number)
            try:
                connection.request(method, path, body, {**headers, "Authorization": f"Bearer {key}"})
                answer = connection.getresponse()
                told = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                broken.append(f"{number}: {error!r}")
                continue
            with lock:
                statuses[answer.status] += 1
                if answer.status >= 500:
                    odd.append(f"{number} {path} {answer.status} {told[:200]!r}")
                if number % max(1, options.inputs // MEASURED) == 0:
                    sizes.append((measure_bytes(pid), read_cached_bytes(options.port, key)))

    began = time.monotonic()
    threads = [threading.Thread(target=send) for _ in range(options.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sizes.append((measure_bytes(pid), read_cached_bytes(options.port, key)))
    shown = [sizes[int(share * (len(sizes) - 1))] for share in (0.1, 0.5, 1)]
    memory, cached = (" -> ".join(f"{size / 2**20:.0f}" for size in column) for column in zip(*shown, strict=True))
    print(
        f"{kind} through HTTP: {statuses.total()} answers from input {options.first} on in {time.monotonic() - began:.0f} s, "
        f"{dict(sorted(statuses.items()))}; {len(odd)} were a 5xx {odd[:6]}; {len(broken)} connections broke {broken[:6]}; "
        f"memory {memory} MiB, of which caches hold {cached} MiB",
        flush=True,
    )


def measure_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_cached_bytes(port: int, key: str) -> int:
    """What the API's caches hold by their own count: loaded forecasters and finished answers."""
    headers = {"Authorization": f"Bearer {key}"}
    numbers = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers, timeout=60).raise_for_status().text
    return sum(int(float(size)) for size in CACHED.findall(numbers))


def find_api(parent: int) -> int:
    """The process of the API among those that `engram serve` has started."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_child = int((path / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if is_child and b"\0api\0" in (path / "cmdline").read_bytes():
                return int(path.name)
        except OSError:
            continue
    raise LookupError("engram serve has no API")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kinds", default="json,gzip,zstd")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3600.0, help="for each kind")
    parser.add_argument("--port", type=int, default=8350)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **SMALL, "ENGRAM_DATA_DIR": folder, "ENGRAM_LOG_LEVEL": "error"}
        engram = [sys.executable, "-m", "app.cli"]
        service = subprocess.Popen([*engram, "serve", f"--port={options.port}"], cwd=ROOT, env=environment)
        try:
            fill(f"http://127.0.0.1:{options.port}")
            key = make_key(environment)
            for kind in options.kinds.split(","):
                send_all(kind, options, key, find_api(service.pid))
        finally:
            service.terminate()
            service.wait(120)
        print(f"the service ended with {service.returncode}")


if __name__ == "__main__":
    main()
