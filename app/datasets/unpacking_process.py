"""The process that unpacks binary tables, run as a script by unpacking.py. Standard library and polars only: it must start fast.

It has polars loaded and forks a child for each table, so that whatever a table does to its reader ends with that child.

    stdin   for each table a socket and an empty file, along with 256 bytes: {"kind": "parquet" or "arrow", "max_bytes", "max_seconds"}, filled up with blanks

Over that socket goes

    out  one byte: the child is there
    in   8 bytes: the length of the table; the table; then, once the answer is out, a line of JSON: the columns to read
    out  a line of JSON: {"columns": [...], "rows": n} or {"error": "..."}; and then, once those columns are in the file, as Arrow's,
         another: {} or {"error": "..."}

A child's memory is limited, where the system can do that: a small table may unpack to more than the machine has. The kernel ends it
when its time is over.
"""

import io
import json
import os
import signal
import socket
from contextlib import suppress
from typing import IO

import polars as pl

WORDS_BYTES = 256
IDLE_SECONDS = 300.0
"""After which the process ends if no table came."""


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the children
    with socket.socket(fileno=0) as control:
        control.settimeout(IDLE_SECONDS)
        with suppress(TimeoutError):
            while True:
                words, descriptors, _, _ = socket.recv_fds(control, WORDS_BYTES, 2)
                if not words:
                    return  # the service has ended
                with socket.socket(fileno=descriptors[0]) as connection, os.fdopen(descriptors[1], "wb") as place:
                    if os.fork() == 0:
                        control.close()
                        serve(connection, place, **json.loads(words))
                        os._exit(0)


def serve(connection: socket.socket, place: IO[bytes], kind: str, max_bytes: int, max_seconds: float) -> None:
    connection.sendall(b"+")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max_seconds)
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
        # The file lies in memory, and the first limit knows nothing of it: a table and its copy are to fit into it together.
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes // 2, max_bytes // 2))
    with suppress(OSError), connection.makefile("rwb") as stream:
        unpack(kind, stream, place)


def unpack(kind: str, stream: io.BufferedRWPair, place: IO[bytes]) -> None:
    try:
        body = io.BytesIO(stream.read(int.from_bytes(stream.read(8), "big")))
        table = pl.scan_parquet(body) if kind == "parquet" else pl.read_ipc_stream(body).lazy()
        columns, rows = table.collect_schema().names(), table.select(pl.len()).collect().item()
        answer(stream, {"columns": columns, "rows": rows})
        table.select(json.loads(stream.readline())).sink_ipc(place)
        place.flush()
    except Exception as error:  # noqa: BLE001 - whatever a damaged table raises is the sender's matter
        answer(stream, {"error": str(error).split("\n")[0][:200]})
    else:
        answer(stream, {})


def answer(stream: io.BufferedRWPair, words: dict[str, object]) -> None:
    stream.write(json.dumps(words).encode() + b"\n")
    stream.flush()


if __name__ == "__main__":
    main()
