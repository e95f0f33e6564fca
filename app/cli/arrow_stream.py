"""An Arrow stream read record batch by record batch: polars reads the whole of one, which may be larger than memory.

A stream is a row of messages, each 0xFFFFFFFF, the length of its metadata, the metadata (a flatbuffer), and a body whose length
stands in the metadata (Arrow columnar format, "Encapsulated message format"). What each is for is left to polars: it is handed the
schema, the dictionaries so far, and one record batch, which together are a stream of their own.
"""

import io
import struct
from collections.abc import Iterator
from typing import IO

import polars as pl

CONTINUATION = b"\xff\xff\xff\xff"
END = CONTINUATION + bytes(4)
SCHEMA, DICTIONARY, RECORDS = 1, 2, 3
HEADER_TYPE_FIELD, BODY_LENGTH_FIELD = 1, 3
"""Their places in the table Message of the format's Message.fbs."""


def read_frames(stream: IO[bytes]) -> Iterator[pl.DataFrame]:
    """One frame for each record batch; an empty one if there is none. Raises EOFError for a stream that is cut off."""
    before = b""
    seen = False
    while message := read_message(stream):
        kind, data = message
        if kind != RECORDS:
            before += data
            continue
        seen = True
        yield pl.read_ipc_stream(io.BytesIO(before + data + END))
    if not seen:
        yield pl.read_ipc_stream(io.BytesIO(before + END))


def read_message(stream: IO[bytes]) -> tuple[int, bytes] | None:
    """(header type, all bytes of the message); None at the stream's end."""
    prefix = stream.read(8)
    if not prefix or prefix == END:
        return None
    if len(prefix) < 8 or not prefix.startswith(CONTINUATION):
        raise EOFError("the Arrow stream is cut off or damaged")
    metadata = _read(stream, struct.unpack("<I", prefix[4:])[0])
    try:
        (kind,) = struct.unpack_from("<B", metadata, _find_field(metadata, HEADER_TYPE_FIELD))
        position = _find_field(metadata, BODY_LENGTH_FIELD)
        length = struct.unpack_from("<q", metadata, position)[0] if position else 0
    except struct.error as error:
        raise EOFError("the Arrow stream is damaged") from error
    return kind, prefix + metadata + _read(stream, length)


def _find_field(metadata: bytes, field: int) -> int:
    """Where a field of the flatbuffer's root table lies; 0 if it has its default."""
    (table,) = struct.unpack_from("<I", metadata)
    (back,) = struct.unpack_from("<i", metadata, table)
    slot = 4 + 2 * field
    (size,) = struct.unpack_from("<H", metadata, table - back)
    if slot >= size:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, table - back + slot)
    return table + offset if offset else 0


def _read(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if count < 0 or len(data) < count:
        raise EOFError("the Arrow stream is cut off")
    return data
