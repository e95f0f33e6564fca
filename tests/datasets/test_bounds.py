"""A body holds no more than it may, whichever format hides it; and what was built to take all memory or time is refused."""

import gzip
import io
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from app import contract
from app.datasets import formats, unpacking
from app.datasets.bounds import Bounds
from app.datasets.columns import ColumnOptions
from app.errors import BodyTooLarge, InvalidObservations, Unavailable
from app.settings import Settings
from tests.conftest import Client

ROWS = 50
FRAME = pl.DataFrame({"series": [f"s{n}" for n in range(ROWS)], "timestamp": [1] * ROWS, "value": [1.0] * ROWS})
WIDE = FRAME.with_columns([pl.lit(1).alias(f"c{n}") for n in range(20)])


def pack(frame: pl.DataFrame, media_type: str) -> bytes:
    buffer = io.BytesIO()
    if media_type == contract.PARQUET:
        frame.write_parquet(buffer)
    elif media_type == contract.ARROW:
        frame.write_ipc_stream(buffer, compression="zstd")
    elif media_type == contract.NDJSON:
        frame.write_ndjson(buffer)
    elif media_type == contract.JSON:
        buffer.write(b'{"observations": ' + frame.write_json().encode() + b"}")
    else:
        frame.write_csv(buffer)
    return buffer.getvalue()


def read(body: bytes, media_type: str, **bounds: Any) -> int:
    return len(formats.parse(body, media_type, ColumnOptions(ignore_others=True), "d", Bounds(**bounds)).values)


@pytest.mark.parametrize("media_type", formats.MEDIA_TYPES)
def test_rows_and_series_are_counted_in_every_format(media_type: str) -> None:
    body = pack(FRAME, media_type)
    assert read(body, media_type, max_rows=ROWS, max_series=ROWS) == ROWS
    with pytest.raises(BodyTooLarge, match=f"at most {ROWS - 1} rows, found {ROWS}"):
        read(body, media_type, max_rows=ROWS - 1)
    with pytest.raises(BodyTooLarge, match=f"at most {ROWS - 1} series, found {ROWS}"):
        read(body, media_type, max_series=ROWS - 1)


@pytest.mark.parametrize("media_type", [contract.CSV, contract.PARQUET, contract.ARROW])
def test_columns_are_counted_in_every_table(media_type: str) -> None:
    body = pack(WIDE, media_type)
    assert read(body, media_type, max_columns=23) == ROWS
    with pytest.raises(BodyTooLarge, match="at most 22 columns, found 23"):
        read(body, media_type, max_columns=22)


def test_a_csv_is_bounded_before_a_reader_makes_anything_of_it() -> None:
    began = time.monotonic()
    for body, said in (
        (b"timestamp,value\n" + b"\n" * 30_000_000, "rows"),
        (b"timestamp,value\n" + b"," * 90_000_000, "cells"),
    ):
        with pytest.raises(BodyTooLarge, match=said):
            read(body, contract.CSV)
    with pytest.raises(BodyTooLarge, match="columns"):
        read(b"a," * 20_000 + b"b\n", contract.CSV)
    with pytest.raises(InvalidObservations, match="a header of at most 65536 bytes"):
        read(b"a," * 40_000 + b"b\n1\n", contract.CSV)
    assert time.monotonic() - began < 10


def test_what_a_table_unpacks_to_is_bounded_in_memory_and_in_time() -> None:
    """Eight thousand rows of an id with a million characters: kilobytes in a file, gigabytes in memory."""
    name = "x" * 1_000_000
    bomb = pack(
        pl.DataFrame({"series": pl.Series([name]).extend_constant(name, 7_999), "timestamp": range(8_000), "value": 1.0}),
        contract.PARQUET,
    )
    assert len(bomb) < 200_000
    with pytest.raises(InvalidObservations):
        read(bomb, contract.PARQUET, unpacking_bytes=2**30)
    body = pack(FRAME, contract.PARQUET)
    with pytest.raises(InvalidObservations, match="memory or time"):
        read(body, contract.PARQUET, unpacking_seconds=1e-4)


def test_the_settings_reach_the_requests(settings: Settings) -> None:
    limits = {"max_rows": 60, "max_columns": 22, "max_series_per_request": 40}
    with Client(settings.model_copy(update=limits)) as client:
        for body, fact in (
            (pack(pl.concat([FRAME, FRAME]), contract.CSV), "max_rows"),
            (pack(WIDE, contract.CSV), "max_columns"),
            (pack(FRAME, contract.CSV), "max_series"),
        ):
            for headers, sent in (({}, body), ({"Content-Encoding": "gzip"}, gzip.compress(body))):
                answer = client.post(
                    "/v1/datasets/d/observations", content=sent, headers={"Content-Type": contract.CSV, **headers}
                )
                assert (answer.status_code, answer.json()["type"]) == (413, "/problems/body-too-large")
                assert answer.json()[fact] in limits.values()


def test_a_table_is_unpacked_though_the_process_that_forks_was_killed() -> None:
    body = pack(FRAME, contract.PARQUET)
    assert read(body, contract.PARQUET) == ROWS
    parent = unpacking._PARENT.process
    assert parent is not None
    assert read(body, contract.PARQUET) == ROWS
    assert unpacking._PARENT.process is parent  # the second table's child came from the same
    parent.kill()
    assert read(body, contract.PARQUET) == ROWS
    assert unpacking._PARENT.process not in (None, parent)


def test_where_no_process_can_be_started_the_service_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(1)")
    monkeypatch.setattr(unpacking, "_PARENT", unpacking.Parent())
    for place, wrong in ((unpacking, "PROCESS"), (sys, "executable")):  # it ends at once; it cannot be started at all
        with monkeypatch.context() as patch:
            patch.setattr(place, wrong, broken)
            with pytest.raises(Unavailable, match="unpacks tables"):
                read(pack(FRAME, contract.PARQUET), contract.PARQUET)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked at in /proc")
def test_no_process_is_left_of_a_service_that_was_killed() -> None:
    code = """
import os, signal
from app.datasets import unpacking
child = unpacking._PARENT.fork("parquet", 2**32, 60.0, 1)
print(unpacking._PARENT.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 20
    while is_left(done.stdout.strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_left(done.stdout.strip())


def is_left(parent: str) -> bool:
    """Whether the process of that number, or one that it forked, still runs."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            number, _, rest = place.read_text().partition(" ")
            state, forked_by = rest.rpartition(")")[2].split()[:2]
            if parent in (number, forked_by) and state != "Z":
                return True
    return False
