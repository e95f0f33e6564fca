"""The process that unpacks one binary table, run as a script by unpacking.py. Standard library and polars only: it must start fast.

    argv "parquet" or "arrow", and the bytes of memory that it may have
    in   8 bytes: the length of the table; the table; then, once the answer is out, a line of JSON: the columns to read
    out  a line of JSON: {"columns": [...], "rows": n} or {"error": "..."}; then an Arrow stream of those columns, or nothing

Its memory is limited, where the system can do that: a small table may unpack to more than the machine has.
"""

import io
import json
import sys
from contextlib import suppress

import polars as pl


def main() -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        most = int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    body = io.BytesIO(sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(8), "big")))
    try:
        table = pl.scan_parquet(body) if sys.argv[1] == "parquet" else pl.read_ipc_stream(body).lazy()
        columns, rows = table.collect_schema().names(), table.select(pl.len()).collect().item()
        answer(json.dumps({"columns": columns, "rows": rows}).encode() + b"\n")
        chosen = json.loads(sys.stdin.buffer.readline())
        unpacked = io.BytesIO()
        table.select(chosen).collect().write_ipc_stream(unpacked)
    except Exception as error:  # noqa: BLE001 - whatever a damaged table raises is the sender's matter
        answer(json.dumps({"error": str(error).split("\n")[0][:200]}).encode() + b"\n")
    else:
        answer(unpacked.getbuffer())


def answer(data: bytes | memoryview) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
