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
SLACK_SECONDS = 30.0
"""How much later than a child's time is over it is given up, should the kernel not have ended it."""

_PLACES = threading.BoundedSemaphore(MAX_PROCESSES)


class Parent:
    """The process that has the reader loaded; started with the first table, and anew where it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def fork(self, kind: str, max_bytes: int, max_seconds: float, place: int) -> socket.socket:
        """The connection to a child that unpacks one table into the file `place`, a descriptor. Raises Unavailable."""
        words = json.dumps({"kind": kind, "max_bytes": max_bytes, "max_seconds": max_seconds}).encode().ljust(WORDS_BYTES)
        for _ in range(2):  # the first may find that the parent has ended: it does so when no table came for a while
            ours, theirs = socket.socketpair()
            ours.settimeout(max_seconds + SLACK_SECONDS)
            process = None
            with theirs, self._lock, suppress(OSError):
                process, control = self._find()
                socket.send_fds(control, [words], [theirs.fileno(), place])
            if _hear(ours):
                return ours
            ours.close()
            if process is not None:
                self.end(process)
        raise Unavailable("the process that unpacks tables ends as soon as it starts; is there memory for it?", retry_after=5)

    def end(self, process: subprocess.Popen[bytes] | None = None) -> None:
        """Ends `process`, if it is still the parent; whichever is, where none is named. Children at work go on."""
        with self._lock:
            if self.process is not None and self._control is not None and process in (None, self.process):
                self._control.close()
                self.process.kill()
                self.process.wait()
                self.process = self._control = None

    def _find(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self.process is not None and self._control is not None:
            return self.process, self._control
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-I", str(PROCESS)]
        environment = {**os.environ, "POLARS_MAX_THREADS": str(pl.thread_pool_size())}
        try:
            with theirs:
                self.process = subprocess.Popen(  # noqa: S603 - this interpreter and our own file
                    command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
                )
        except OSError:
            ours.close()
            raise
        self._control = ours
        return self.process, ours


def _hear(connection: socket.socket) -> bool:
    """Whether there is a child: it says one byte. Where its parent had ended, nobody has the other end any more."""
    with suppress(OSError), connection.makefile("rb", buffering=0) as stream:
        return stream.read(1) == b"+"
    return False


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
        child = _PARENT.fork(kind, max_bytes, max_seconds, place.fileno())
        with closing(child), child.makefile("rb") as answers:
            _converse(child, answers, body, choose)
        place.seek(0)
        return pl.read_ipc(place)


def _open_place() -> IO[bytes]:
    """Where a child leaves what it unpacked: in memory where the system can do that, since a pipe holds but a few pages."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("unpacked"), "w+b")
    return tempfile.TemporaryFile()


def _converse(
    child: socket.socket, answers: io.BufferedReader, body: bytes, choose: Callable[[list[str], int], list[str]]
) -> None:
    """Until the table is unpacked."""
    _send(child, len(body).to_bytes(8, "big") + body)
    about = _read_json(answers)
    _send(child, json.dumps(choose(about["columns"], about["rows"])).encode() + b"\n")
    _read_json(answers)


def _send(child: socket.socket, data: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError, TimeoutError):  # it has ended: what it said, or did not, tells why
        child.sendall(data)


def _read_json(answers: io.BufferedReader) -> dict[str, Any]:
    try:
        line = answers.readline()
    except (ConnectionResetError, TimeoutError):  # it ended with something of ours unread, or says nothing
        line = b""
    found: dict[str, Any] = (
        json.loads(line) if line else {"error": "its reader gave up, or would have needed too much memory or time"}
    )
    if "error" in found:
        raise _refuse(found["error"])
    return found


def _refuse(reason: str) -> InvalidObservations:
    return InvalidObservations(f"the body is no readable table of its type: {reason}; was it cut off or changed on its way?")
