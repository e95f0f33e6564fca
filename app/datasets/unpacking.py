"""Parquet and Arrow -> a DataFrame, unpacked in a process of its own.

A damaged table can make its reader allocate without bound or abort, which would take the whole service with it, and a small one
can unpack to more than memory holds; a Python exception is only one of the things that may happen. Starting the process costs a
quarter of a second.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from app.errors import InvalidObservations
from app.frames import pl

PROCESS = Path(__file__).with_name("unpacking_process.py")
MAX_PROCESSES = 2
"""How many tables one API process has unpacked at once; more wait."""

_PLACES = threading.BoundedSemaphore(MAX_PROCESSES)


def unpack(
    kind: Literal["parquet", "arrow"],
    body: bytes,
    choose: Callable[[list[str], int], list[str]],
    *,
    max_bytes: int,
    max_seconds: float,
) -> pl.DataFrame:
    """The columns that `choose` picks, told all names and the number of rows. Raises InvalidObservations, and what `choose` raises.

    The process may have `max_bytes` of memory and take `max_seconds`; a table that needs more is refused.
    """
    command = [sys.executable, "-I", str(PROCESS), kind, str(max_bytes)]
    environment = {**os.environ, "POLARS_MAX_THREADS": str(pl.thread_pool_size())}
    with (
        _PLACES,
        subprocess.Popen(  # noqa: S603 - this interpreter, our own file, and two words of ours
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        ) as process,
    ):
        watch = threading.Timer(max_seconds, process.kill)
        watch.start()
        try:
            return _converse(process, body, choose)
        finally:
            watch.cancel()
            process.kill()


def _converse(process: subprocess.Popen[bytes], body: bytes, choose: Callable[[list[str], int], list[str]]) -> pl.DataFrame:
    if process.stdin is None or process.stdout is None:
        raise TypeError("the process was started without pipes")
    _send(process.stdin, len(body).to_bytes(8, "big") + body)
    about = _read_json(process.stdout.readline())
    _send(process.stdin, json.dumps(choose(about["columns"], about["rows"])).encode() + b"\n")
    unpacked = process.stdout.read()
    if not unpacked or unpacked.startswith(b"{"):
        raise _refuse(_read_json(unpacked)["error"])
    return pl.read_ipc_stream(io.BytesIO(unpacked))


def _send(pipe: Any, data: bytes) -> None:
    with suppress(BrokenPipeError):  # it has ended: what it said, or did not, tells why
        pipe.write(data)
        pipe.flush()


def _read_json(line: bytes) -> dict[str, Any]:
    found: dict[str, Any] = (
        json.loads(line) if line else {"error": "its reader gave up, or would have needed too much memory or time"}
    )
    if "error" in found and "columns" not in found:
        raise _refuse(found["error"])
    return found


def _refuse(reason: str) -> InvalidObservations:
    return InvalidObservations(f"the body is no readable table of its type: {reason}; was it cut off or changed on its way?")
