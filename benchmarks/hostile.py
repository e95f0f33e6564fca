"""Bodies that are small, or just small enough, and try to take a great deal of memory or time: what each costs the API, and what it answers.

    python -m benchmarks.hostile [--only csv]

Each is read in a process of its own the way a request is, decompression included; the peak of its memory (ru_maxrss) and the seconds are
printed beside those of a process that reads nothing. Needs some 4 GiB. Linux only.
"""

import argparse
import gzip
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import polars as pl
import zstandard

from app import contract
from app.datasets import formats
from app.datasets.columns import ColumnOptions
from app.errors import EngramError
from app.middleware import decompress
from app.protection.documents import measure
from app.settings import Settings

MIB = 2**20
FULL = Settings.model_fields["max_body_bytes"].default
JSON_FULL = Settings.model_fields["max_json_bytes"].default
PACKED = {"gzip": gzip.compress, "zstd": zstandard.compress}


def _to_parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _to_arrow(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer, compression="zstd")
    return buffer.getvalue()


def _long_names(rows: int, length: int) -> pl.DataFrame:
    """Rows that all have one very long id: a few bytes in a file, gigabytes in memory."""
    return pl.DataFrame(
        {"series": pl.Series(["x" * length]).extend_constant("x" * length, rows - 1), "timestamp": range(rows), "value": 1.0}
    )


def _many(rows: int) -> pl.DataFrame:
    return pl.select(timestamp=pl.int_range(rows, dtype=pl.Int64) * 0, value=pl.lit(1.0))


BODIES: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "nothing": (contract.CSV, "", lambda: b""),
    "csv: a header of 256 MiB": (contract.CSV, "", lambda: b"a," * (FULL // 2 - 1)),
    "csv: blank lines": (contract.CSV, "", lambda: b"timestamp,value\n" + b"\n" * (FULL - 20)),
    "csv: 16 million rows": (contract.CSV, "", lambda: b"timestamp,value\n" + b"2024-01-01,1.25\n" * (FULL // 16 - 2)),
    "csv: commas": (contract.CSV, "", lambda: b"timestamp,value\n" + b"," * (FULL - 20)),
    "csv: an open quote": (contract.CSV, "", lambda: b'timestamp,value\n"' + b"x" * (FULL - 20)),
    "csv: quotes": (contract.CSV, "", lambda: b"timestamp,value\n" + b'"' * (FULL - 20)),
    "csv: one row of 256 MiB": (contract.CSV, "", lambda: b"timestamp,value\n2024-01-01," + b"9" * (FULL - 40)),
    "ndjson: blank lines": (contract.NDJSON, "", lambda: b"\n" * JSON_FULL),
    "ndjson: small objects": (contract.NDJSON, "", lambda: b"{}\n" * (JSON_FULL // 3)),
    "json: small objects": (contract.JSON, "", lambda: b'{"observations":[' + b"{}," * (JSON_FULL // 3 - 20) + b"{}]}"),
    "json: small lists": (contract.JSON, "", lambda: b'{"observations":[' + b"[]," * (JSON_FULL // 3 - 20) + b"[]]}"),
    "json: values": (
        contract.JSON,
        "",
        lambda: b'{"series":[{"id":"a","start":1,"freq":"step","values":[' + b"1," * (JSON_FULL // 2 - 60) + b"1]}]}",
    ),
    "json: wrong values": (
        contract.JSON,
        "",
        lambda: b'{"series":[{"id":"a","start":1,"freq":"step","values":[' + b'"x",' * (JSON_FULL // 4 - 60) + b"1]}]}",
    ),
    "json: deep": (contract.JSON, "", lambda: b"[" * JSON_FULL),
    "gzip: 4 GiB of nothing": (contract.CSV, "gzip", lambda: gzip.compress(bytes(64 * MIB)) * 64),
    "zstd: 4 GiB of nothing": (contract.CSV, "zstd", lambda: zstandard.compress(bytes(64 * MIB)) * 64),
    "parquet: 20 million rows more than may be": (contract.PARQUET, "", lambda: _to_parquet(_many(40_000_000))),
    "parquet: one long id in a million rows": (contract.PARQUET, "", lambda: _to_parquet(_long_names(1_000_000, 10_000))),
    "arrow: 20 million rows more than may be": (contract.ARROW, "", lambda: _to_arrow(_many(40_000_000))),
    "arrow: long ids": (contract.ARROW, "", lambda: _to_arrow(_long_names(200_000, 10_000))),
}


def work(name: str) -> None:
    media_type, encoding, _ = BODIES[name]
    body = sys.stdin.buffer.read()
    began = time.perf_counter()
    try:
        if encoding:
            body = decompress(body, encoding, FULL)
        if media_type in (contract.JSON, contract.NDJSON) and measure(body[:MIB])[0] > 32:
            outcome = "json-too-deep"
        else:
            formats.parse(body, media_type, ColumnOptions(), "d")
            outcome = "accepted"
    except EngramError as error:
        outcome = f"{error.slug}: {error.detail[:60]}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(json.dumps([outcome, peak, child, time.perf_counter() - began]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    print(
        "| body | sent, MiB | answer | peak of the API's process, MiB | of the one that unpacks, MiB | seconds |\n|---|---|---|---|---|---|"
    )
    for name in BODIES:
        if options.only not in name:
            continue
        body = BODIES[name][2]()
        command = [sys.executable, "-m", "benchmarks.hostile", "--work", name]
        done = subprocess.run(command, input=body, capture_output=True, check=False)
        outcome, peak, child, seconds = (
            json.loads(done.stdout) if done.returncode == 0 else (f"CRASH {done.returncode}", 0, 0, 0.0)
        )
        print(
            f"| {name} | {len(body) / MIB:.1f} | {outcome} | {peak / MIB:.0f} | {child / MIB:.0f} | {seconds:.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
