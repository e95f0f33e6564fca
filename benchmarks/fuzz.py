"""Damaged bodies for every parser and content encoding: does any crash, hang, grow, or raise what nobody answers for? Linux only.

    python -m benchmarks.fuzz [--inputs 100000] [--seconds 600] [--kinds csv,json,...] [--first 0]
    python -m benchmarks.fuzz --url http://127.0.0.1:8000 --inputs 100000      # JSON bodies through HTTP, to a service that may be filled

Each parser runs in a process of its own, which a crash ends and a hang (10 s for one input) has killed; then the next goes on behind
that input. Parquet and Arrow are read as app/datasets/unpacking_process.py reads them, under the same limit of memory: there a crash
is what the process of their own is for, and `--via-service N` sends N of the bodies the way that a request takes. Prints a table: inputs,
what was accepted and refused, crashes, hangs, other exceptions, and the memory of the process after a tenth and at the end.
"""

import argparse
import http.client
import io
import json
import mmap
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from app import contract
from app.datasets import formats
from app.datasets.bounds import Bounds
from app.datasets.columns import ColumnOptions, read_columns, recognise
from app.errors import EngramError
from app.middleware import decompress
from benchmarks.mutations import make_samples, mutate

KINDS = ("csv", "ndjson", "json", "parquet", "arrow", "gzip", "zstd")
TYPES = {
    "csv": contract.CSV,
    "ndjson": contract.NDJSON,
    "json": contract.JSON,
    "parquet": contract.PARQUET,
    "arrow": contract.ARROW,
}
HANG_SECONDS = 10.0
START_SECONDS = 180.0
OUTCOMES = ("accepted", "refused", "unforeseen")
RECORD = struct.Struct("<QQQQ")
OPTIONS = (ColumnOptions(), ColumnOptions(ignore_others=True))
PATHS = (
    "/v1/datasets/fuzz/observations",
    "/v1/models/fuzz/trainings",
    "/v1/models/fuzz/forecasts",
    "/v1/keys",
    "/v1/datasets/fuzz",
)


def read(kind: str, body: bytes, number: int) -> str:
    """What became of one input: accepted, or the slug with which it was refused. Anything else is raised."""
    options = OPTIONS[number % 2]
    try:
        if kind in ("gzip", "zstd"):
            decompress(body, kind, 2**20)
        elif kind in ("parquet", "arrow"):
            _read_binary(kind, body, options)
        else:
            formats.parse(body, TYPES[kind], options, "d")
    except EngramError as error:
        return error.slug
    return "accepted"


def _read_binary(kind: str, body: bytes, options: ColumnOptions) -> None:
    source = io.BytesIO(body)
    try:
        table = pl.scan_parquet(source) if kind == "parquet" else pl.read_ipc_stream(source).lazy()
        columns = table.collect_schema().names()
        table.select(pl.len()).collect()
        roles = recognise(columns, options)
        unpacked = io.BytesIO()
        table.select(roles.names()).collect().write_ipc_stream(unpacked)
    except EngramError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise formats.InvalidObservations(str(error)[:80]) from error
    read_columns(pl.read_ipc_stream(io.BytesIO(unpacked.getvalue())), roles, "d")


def measure_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def work(kind: str, first: int, count: int, deadline: float, place: Path, odd: Path) -> None:
    """One process: the inputs first..first + count, until the deadline. `place` says to others at which one it is, and what came of
    those before: a process that dies says nothing more."""
    if kind in ("parquet", "arrow"):
        most = Bounds().unpacking_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    samples, outcomes, sizes = make_samples()[kind], dict.fromkeys(OUTCOMES, 0), []
    with place.open("r+b") as file, mmap.mmap(file.fileno(), RECORD.size) as at:
        for number in range(first, first + count):
            at[:] = RECORD.pack(number, *outcomes.values())
            body = mutate(samples, number)
            try:
                outcomes["accepted" if read(kind, body, number) == "accepted" else "refused"] += 1
            except Exception as error:  # noqa: BLE001 - this is what is looked for
                outcomes["unforeseen"] += 1
                with odd.open("a") as told:
                    told.write(f"{number}: {type(error).__name__}: {str(error)[:100]}\n")
            if number % 500 == 0:
                sizes.append(measure_bytes())
                if time.monotonic() > deadline:
                    break
        at[:] = RECORD.pack(number + 1, *outcomes.values())
    print(json.dumps([*sizes, measure_bytes()]))


def supervise(kind: str, first: int, count: int, seconds: float) -> dict[str, Any]:
    """Has inputs worked through by one process after the other; a crash or a hang costs the input that it met."""
    deadline = time.monotonic() + seconds
    total: dict[str, Any] = {"done": 0, "sizes": [], "crashes": [], "hangs": [], **dict.fromkeys(OUTCOMES, 0)}
    with tempfile.TemporaryDirectory() as folder:
        place, odd = Path(folder, "place"), Path(folder, "odd")
        odd.touch()
        while total["done"] < count and time.monotonic() < deadline:
            begin = first + total["done"]
            place.write_bytes(RECORD.pack(begin, 0, 0, 0))
            left = [str(count - total["done"]), str(deadline - time.monotonic())]
            command = [sys.executable, "-m", "benchmarks.fuzz", "--work", kind, str(begin), *left, str(place), str(odd)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            hung = _watch(process, place)
            said = process.communicate()[0]
            at, *counts = RECORD.unpack(place.read_bytes())
            for outcome, number in zip(OUTCOMES, counts, strict=True):
                total[outcome] += number
            total["done"] = at - first
            if process.returncode == 0:
                total["sizes"] += json.loads(said)
            else:
                total["done"] += 1
                total["hangs" if hung else "crashes"].append(f"{at} ({process.returncode})")
        total["odd"] = odd.read_text().splitlines()
    return total


def _watch(process: "subprocess.Popen[str]", place: Path) -> bool:
    """Waits for the process to end; kills it, and says so, if it stays at one input for too long."""
    begun = at = place.read_bytes()[:8]
    since = time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        now = place.read_bytes()[:8]
        if now != at:
            at, since = now, time.monotonic()
        elif time.monotonic() - since > HANG_SECONDS + (START_SECONDS if now == begun else 0):
            process.kill()
            return True
    return False


def send_all(url: str, key: str, first: int, count: int, seconds: float) -> None:
    """JSON bodies through HTTP: no answer may be a 5xx, and the service must be there at the end."""
    samples = make_samples()["json"]
    samples += [
        b'{"dataset": "fuzz", "horizon": 3, "fit": {"max_steps": 5, "seed": 1}, "network": {"hidden_size": 8}, "quantile_levels": [0.1]}'
    ]
    samples += [
        b'{"context": [{"id": "x", "start": "2024-01-01", "values": [1, 2, null]}], "horizon": 2, "version": "champion"}'
    ]
    samples += [
        b'{"name": "k", "scopes": ["read"], "expires_at": "2027-01-01T00:00:00Z"}',
        b'{"freq": "h", "time_zone": "Europe/Berlin"}',
    ]
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    headers = {"Content-Type": contract.JSON, **({"Authorization": f"Bearer {key}"} if key else {})}
    statuses, deadline, number = Counter[int](), time.monotonic() + seconds, first
    for number in range(first, first + count):
        path = PATHS[number % len(PATHS)]
        connection.request(
            "PUT" if path.count("/") == 3 and "datasets" in path else "POST", path, mutate(samples, number), headers
        )
        answer = connection.getresponse()
        told = answer.read()
        statuses[answer.status] += 1
        if answer.status >= 500:
            print(number, path, answer.status, told[:300])
        if time.monotonic() > deadline:
            break
    print(f"json through HTTP: {number + 1 - first} inputs from {first} on, {dict(sorted(statuses.items()))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600.0, help="for each kind")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--url", default="")
    parser.add_argument("--key", default="")
    parser.add_argument("--via-service", type=int, default=0, help="so many Parquet and Arrow bodies by the way of a request")
    parser.add_argument("--work", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        kind, first, count, seconds, place, odd = options.work
        work(kind, int(first), int(count), time.monotonic() + float(seconds), Path(place), Path(odd))
        return
    if options.url:
        send_all(options.url, options.key, options.first, options.inputs, options.seconds)
        return
    for kind in options.kinds.split(","):
        began = time.monotonic()
        total = supervise(kind, options.first, options.inputs, options.seconds)
        tenth, end = (total["sizes"] or [0])[len(total["sizes"]) // 10], (total["sizes"] or [0])[-1]
        outcomes = ", ".join(f"{total[outcome]} {outcome}" for outcome in OUTCOMES)
        print(
            f"{kind}: {total['done']} inputs in {time.monotonic() - began:.0f} s: {outcomes}; "
            f"{len(total['crashes'])} crashes {total['crashes'][:6]}, {len(total['hangs'])} hangs {total['hangs'][:6]} {total['odd'][:6]}; "
            f"memory {tenth / 2**20:.0f} -> {end / 2**20:.0f} MiB",
            flush=True,
        )
    for kind in ("parquet", "arrow")[: 2 if options.via_service else 0]:
        samples, outcomes = make_samples()[kind], Counter[str]()
        for number in range(options.via_service):
            try:
                formats.parse(mutate(samples, number), TYPES[kind], OPTIONS[number % 2], "d")
                outcomes["accepted"] += 1
            except EngramError as error:
                outcomes[error.slug] += 1
        print(f"{kind} by the way of a request: {dict(outcomes)}, {measure_bytes() / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
