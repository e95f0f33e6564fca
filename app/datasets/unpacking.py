"""Parquet and Arrow -> a DataFrame, unpacked in a process of its own.

A damaged table can make its reader allocate without bound or abort, which would take the whole service with it, and a small one
can unpack to more than memory holds; a Python exception is only one of the things that may happen. Loading the reader costs a
quarter of a second: one process has it loaded, and forks a child for each table.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any, Literal

from app.errors import InvalidObservations, Unavailable
from app.frames import pl

PROCESS = Path(__file__).with_name("unpacking_process.py")
WORDS_BYTES = 256
"""As in unpacking_process.py."""
MAX_PROCESSES = 2
"""How many tables one API process has unpacked at once; more wait."""

_PLACES = threading.BoundedSemaphore(MAX_PROCESSES)


class ParentGoneError(Exception):
    """The process that forks the children has ended: it does so when no table came for a while."""


class Parent:
    """The process that has the reader loaded; started with the first table, and anew where it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def fork(self, kind: str, max_bytes: int, max_seconds: float, place: int) -> socket.socket:
        """The connection to a child that unpacks one table into the file `place`, a descriptor; one byte comes from it first, or none
        if the parent ended just now. Raises ParentGoneError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                with self._lock:
                    control = self._control or self._start()
                    words = json.dumps({"kind": kind, "max_bytes": max_bytes, "max_seconds": max_seconds})
                    socket.send_fds(control, [words.encode().ljust(WORDS_BYTES)], [theirs.fileno(), place])
            except OSError as error:
                ours.close()
                raise ParentGoneError from error
        return ours

    def end(self) -> None:
        """Those that fork fail; children at work go on."""
        with self._lock:
            if self._process is not None and self._control is not None:
                self._control.close()
                self._process.wait()
            self._process = self._control = None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", str(PROCESS)]
            environment = {**os.environ, "POLARS_MAX_THREADS": str(pl.thread_pool_size())}
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter and our own file
                command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
            )
        self._control = ours
        return ours


_PARENT = Parent()
atexit.register(_PARENT.end)


def unpack(
    kind: Literal["parquet", "arrow"],
    body: bytes,
    choose: Callable[[list[str], int], list[str]],
    *,
    max_bytes: int,
    max_seconds: float,
) -> pl.DataFrame:
    """The columns that `choose` picks, told all names and the number of rows. Raises InvalidObservations, Unavailable, and what `choose` raises.

    The child may have `max_bytes` of memory and take `max_seconds`; a table that needs more is refused.
    """
    with _PLACES, _open_place() as place:
        for _ in range(2):
            with suppress(ParentGoneError):
                child = _PARENT.fork(kind, max_bytes, max_seconds, place.fileno())
                with closing(child), child.makefile("rwb") as stream:
                    _converse(stream, body, choose)
                place.seek(0)
                return pl.read_ipc_stream(place)
            _PARENT.end()  # and the next table starts it anew
    raise Unavailable("the process that unpacks tables ends as soon as it starts; is there memory for it?", retry_after=5)


def _open_place() -> IO[bytes]:
    """Where a child leaves what it unpacked: in memory where the system can do that, since a pipe holds but a few pages."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("unpacked"), "w+b")
    return tempfile.TemporaryFile()


def _converse(stream: io.BufferedRWPair, body: bytes, choose: Callable[[list[str], int], list[str]]) -> None:
    """Until the table is unpacked."""
    try:
        is_there = bool(stream.read(1))
    except ConnectionResetError:
        is_there = False
    if not is_there:
        raise ParentGoneError
    _send(stream, len(body).to_bytes(8, "big") + body)
    about = _read_json(stream)
    _send(stream, json.dumps(choose(about["columns"], about["rows"])).encode() + b"\n")
    _read_json(stream)


def _send(stream: io.BufferedRWPair, data: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it has ended: what it said, or did not, tells why
        stream.write(data)
        stream.flush()


def _read_json(stream: io.BufferedRWPair) -> dict[str, Any]:
    try:
        line = stream.readline()
    except ConnectionResetError:  # it ended with something of ours unread
        line = b""
    found: dict[str, Any] = (
        json.loads(line) if line else {"error": "its reader gave up, or would have needed too much memory or time"}
    )
    if "error" in found:
        raise _refuse(found["error"])
    return found


def _refuse(reason: str) -> InvalidObservations:
    return InvalidObservations(f"the body is no readable table of its type: {reason}; was it cut off or changed on its way?")
