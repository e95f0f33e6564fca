"""Damaged bodies for every parser and content encoding: does any crash, hang, grow, or raise what nobody answers for? Linux only.

    python -m benchmarks.fuzz [--inputs 100000] [--seconds 600] [--kinds csv,json,...] [--first 0]

Each parser runs in a process of its own, which a crash ends and a hang (10 s of its own for one input) has killed; then the next goes on behind
that input. Parquet and Arrow are read as app/datasets/unpacking_process.py reads them, under the same limit of memory: there a crash
is what the process of their own is for, and `--via-service N` sends N of the bodies the way that a request takes. Prints a table: inputs,
what was accepted and refused, crashes, hangs, other exceptions, and the memory of the process after a tenth, a half and all of them.
"""

import argparse
import io
import mmap
import multiprocessing
import multiprocessing.process
import os
import resource
import struct
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

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
        table.select(roles.names()).sink_ipc(unpacked)
    except EngramError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise formats.InvalidObservations(str(error)[:80]) from error
    read_columns(pl.read_ipc(unpacked.getvalue()), roles, "d")


def measure_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def work(kind: str, first: int, count: int, deadline: float, place: Path, odd: Path, sizes: Path) -> None:
    """One process: the inputs first..first + count, until the deadline. `place` says to others at which one it is, and what came of
    those before, `sizes` its memory: a process that dies says nothing more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what a reader says before it aborts
    if kind in ("parquet", "arrow"):
        most = Bounds().unpacking_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    samples, outcomes = make_samples()[kind], dict.fromkeys(OUTCOMES, 0)
    with (
        place.open("r+b") as file,
        mmap.mmap(file.fileno(), RECORD.size) as at,
        sizes.open("a", buffering=1) as told_bytes,
    ):
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
                told_bytes.write(f"{measure_bytes()}\n")
                if time.monotonic() > deadline:
                    break
        at[:] = RECORD.pack(number + 1, *outcomes.values())
        told_bytes.write(f"{measure_bytes()}\n")


def supervise(kind: str, first: int, count: int, seconds: float) -> dict[str, Any]:
    """Has inputs worked through by one process after the other; a crash or a hang costs the input that it met."""
    deadline = time.monotonic() + seconds
    total: dict[str, Any] = {"done": 0, "crashes": [], "hangs": [], **dict.fromkeys(OUTCOMES, 0)}
    with tempfile.TemporaryDirectory() as folder:
        place, odd, sizes = Path(folder, "place"), Path(folder, "odd"), Path(folder, "sizes")
        odd.touch()
        sizes.touch()
        while total["done"] < count and time.monotonic() < deadline:
            begin = first + total["done"]
            place.write_bytes(RECORD.pack(begin, 0, 0, 0))
            # forked: this process has done nothing yet but import, and a crash costs the next one no seconds for that
            process = multiprocessing.get_context("fork").Process(
                target=work, args=(kind, begin, count - total["done"], deadline, place, odd, sizes)
            )
            process.start()
            hung = _watch(process, place)
            process.join()
            at, *counts = RECORD.unpack(place.read_bytes())
            for outcome, number in zip(OUTCOMES, counts, strict=True):
                total[outcome] += number
            total["done"] = at - first
            if process.exitcode != 0:
                total["done"] += 1
                total["hangs" if hung else "crashes"].append(f"{at} ({process.exitcode})")
        total["odd"] = odd.read_text().splitlines()
        total["sizes"] = [int(size) for size in sizes.read_text().split()]
    return total


def _watch(process: multiprocessing.process.BaseProcess, place: Path) -> bool:
    """Waits for the process to end; kills it, and says so, if it computes at one input for too long. Its own seconds count: on a busy
    machine it may be given none for a while. One that waits for nobody knows what is given up as well, much later."""
    begun = at = place.read_bytes()[:8]
    since, spent = time.monotonic(), _count_seconds(process.pid)
    while process.exitcode is None:
        process.join(0.2)
        now, seconds = place.read_bytes()[:8], _count_seconds(process.pid)
        if now != at:
            at, since, spent = now, time.monotonic(), seconds
        elif (now != begun and seconds - spent > HANG_SECONDS) or time.monotonic() - since > START_SECONDS:
            process.kill()
            return True
    return False


def _count_seconds(pid: int | None) -> float:
    """The processor's seconds that a process has had."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600.0, help="for each kind")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--via-service", type=int, default=0, help="so many Parquet and Arrow bodies by the way of a request")
    options = parser.parse_args()
    os.environ["RUST_BACKTRACE"] = "0"  # in a forked process a reader that panics may wait for ever while it writes one
    for kind in options.kinds.split(","):
        began = time.monotonic()
        total = supervise(kind, options.first, options.inputs, options.seconds)
        sizes = total["sizes"] or [0]
        memory = " -> ".join(f"{sizes[int(share * (len(sizes) - 1))] / 2**20:.0f}" for share in (0.1, 0.5, 1))
        outcomes = ", ".join(f"{total[outcome]} {outcome}" for outcome in OUTCOMES)
        print(
            f"{kind}: {total['done']} inputs in {time.monotonic() - began:.0f} s: {outcomes}; "
            f"{len(total['crashes'])} crashes {total['crashes'][:6]}, {len(total['hangs'])} hangs {total['hangs'][:6]} {total['odd'][:6]}; "
            f"memory {memory} MiB",
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
