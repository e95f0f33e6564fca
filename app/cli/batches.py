"""A file of any size -> batches, each a body of its own that the service takes. Memory holds one batch, however long the file is."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import polars as pl
import zstandard
from polars.exceptions import PolarsError

from app.cli import arrow_stream
from app.cli.failure import Failure
from app.contract import ARROW, CSV, NDJSON

Kind = Literal["csv", "ndjson", "parquet", "arrow-file", "arrow-stream"]
STDIN = Path("-")
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
SNIFF_BYTES = 65_536
LONGEST_ROW = 8
"""A row may be this many batches long before an open quote is suspected."""
ROW_BYTES = 32
"""What a row of a table (series, timestamp, value) is taken to weigh, so that batches of all kinds are about as large."""
QUOTE, NEWLINE = 34, 10


@dataclass(frozen=True)
class Position:
    """Up to where a file has been read: rows as an editor counts them, the header included; `offset` is in bytes of plain text, or
    in rows of a table."""

    offset: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Batch:
    """One request's body, and which row of the file each of its rows is."""

    body: bytes
    media_type: str
    end: Position
    locate: Callable[[int], int]
    """Row of the body -> row of the file, both counted as the service counts that format's."""


class Source:
    """A file, or stdin, opened and its format recognised by its first bytes, whatever its name is."""

    def __init__(self, raw: IO[bytes], path: Path) -> None:
        self.path = path
        self.size = None if path == STDIN else path.stat().st_size
        head = _peek(raw)
        self.is_packed = head.startswith((GZIP, ZSTD))
        self._raw = raw
        self._plain = _unpack(raw, head)
        head = _peek(self._plain) if self.is_packed else head
        self.kind = _recognise(head, path)
        if self.kind in ("parquet", "arrow-file") and (path == STDIN or self.is_packed):
            raise Failure(f"{path}: {self.kind} is read from its end: expected a plain file that is not compressed as a whole")

    def bytes_read(self) -> int:
        """Of the file as it lies on the disk, for a progress bar."""
        return self._raw.tell() if self.size is not None else 0

    def read(self, batch_bytes: int, start: Position | None = None) -> Iterator[Batch]:
        """The batches behind `start`; at least one if nothing was read before, so that the service can say what it misses."""
        start = start or Position()
        try:
            if self.kind in ("csv", "ndjson"):
                yield from _read_text(self._plain, self.kind, batch_bytes, start, self.is_packed or self.size is None)
            else:
                frames = self._read_frames(max(batch_bytes // ROW_BYTES, 1), start.offset)
                yield from _read_table(frames, max(batch_bytes // ROW_BYTES, 1), start)
        except (EOFError, OSError, zstandard.ZstdError, PolarsError, ValueError) as error:
            raise Failure(f"{self.path} could not be read: {error}") from error

    def _read_frames(self, rows: int, skip: int) -> Iterator[pl.DataFrame]:
        if self.kind == "arrow-stream":
            yield from _skip_rows(arrow_stream.read_frames(self._plain), skip)
            return
        scan = pl.scan_parquet if self.kind == "parquet" else pl.scan_ipc
        frame = scan(self.path)
        total = int(frame.select(pl.len()).collect().item())
        for offset in range(skip, max(total, 1), rows):
            yield frame.slice(offset, rows).collect()


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Raises Failure where the file cannot be opened, or is empty."""
    try:
        raw: IO[bytes] = sys.stdin.buffer if path == STDIN else path.open("rb")
    except OSError as error:
        raise Failure(f"{path} could not be opened: {error.strerror}") from error
    try:
        yield Source(raw, path)
    except (EOFError, zstandard.ZstdError) as error:
        raise Failure(f"{path} could not be read: {error}") from error
    finally:
        raw.close()


def _peek(stream: IO[bytes]) -> bytes:
    return stream.peek(SNIFF_BYTES) if isinstance(stream, io.BufferedReader) else b""


def _unpack(raw: IO[bytes], head: bytes) -> IO[bytes]:
    if head.startswith(GZIP):
        import gzip

        return io.BufferedReader(gzip.open(raw), SNIFF_BYTES)
    if head.startswith(ZSTD):
        reader: Any = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        return io.BufferedReader(reader, SNIFF_BYTES)
    return raw


def _recognise(head: bytes, path: Path) -> Kind:
    if not head:
        raise Failure(f"{path} is empty: there is nothing to import")
    marks: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow-file", arrow_stream.CONTINUATION: "arrow-stream"}
    for mark, kind in marks.items():
        if head.startswith(mark):
            return kind
    return "ndjson" if head.lstrip().startswith(b"{") else "csv"


def _read_text(stream: IO[bytes], kind: str, batch_bytes: int, start: Position, is_pipe: bool) -> Iterator[Batch]:
    """Cut at the ends of rows. A CSV batch begins with the file's header."""
    header, at = _read_header(stream) if kind == "csv" else (b"", Position())
    media_type = CSV if kind == "csv" else NDJSON
    body_row = 1 if header else 0  # rows of a body that come before its first data
    if start.offset > at.offset:
        _skip(stream, start.offset - at.offset, is_pipe)
        at = start
    elif header and not _peek(stream):
        yield Batch(header, media_type, at, lambda row: row)
    rest = b""
    while data := stream.read(batch_bytes):
        data = rest + data
        cut, rows = _find_last_row_end(data)
        if not cut and len(data) > batch_bytes * LONGEST_ROW:
            raise Failure(f"row {at.rows + 1} does not end within {len(data)} bytes: is a quote open?")
        rest = data[cut:]
        if cut:
            end = Position(at.offset + cut, at.rows + rows)
            yield Batch(header + data[:cut], media_type, end, _shift(at.rows - body_row))
            at = end
    if rest:
        end = Position(at.offset + len(rest), at.rows + 1)
        yield Batch(header + rest, media_type, end, _shift(at.rows - body_row))


def _read_header(stream: IO[bytes]) -> tuple[bytes, Position]:
    """(the header's row, with its end; the position behind it). Blank lines before it count as rows."""
    lines = [stream.readline(SNIFF_BYTES)]
    while lines[-1] and not lines[-1].strip(b"\xef\xbb\xbf\r\n"):
        lines.append(stream.readline(SNIFF_BYTES))
    while lines[-1] and b"".join(lines).count(b'"') % 2:
        more = stream.readline(SNIFF_BYTES)
        if not more:
            break
        lines[-1] += more
    size = sum(map(len, lines))
    header = lines[-1] if lines[-1].endswith(b"\n") else lines[-1] + b"\n"
    return header, Position(size, len(lines))


def _find_last_row_end(data: bytes) -> tuple[int, int]:
    """(where the last whole row of `data` ends, how many rows there are to there). A line break inside quotes ends no row."""
    if b'"' not in data:
        cut = data.rfind(b"\n") + 1
        return cut, data.count(b"\n", 0, cut)
    characters = np.frombuffer(data, np.uint8)
    inside = np.cumsum(characters == QUOTE, dtype=np.int64) & 1
    ends = np.flatnonzero((characters == NEWLINE) & (inside == 0))
    return (int(ends[-1]) + 1 if len(ends) else 0), len(ends)


def _skip(stream: IO[bytes], count: int, is_pipe: bool) -> None:
    if not is_pipe:
        stream.seek(count, io.SEEK_CUR)
        return
    while count > 0:
        skipped = len(stream.read(min(count, 2**20)))
        if not skipped:
            return
        count -= skipped


def _shift(rows: int) -> Callable[[int], int]:
    return lambda row: row + rows


def _skip_rows(frames: Iterator[pl.DataFrame], skip: int) -> Iterator[pl.DataFrame]:
    for frame in frames:
        if skip < frame.height or not skip:
            yield frame[skip:] if skip else frame
        skip = max(skip - frame.height, 0)


def _read_table(frames: Iterator[pl.DataFrame], rows: int, start: Position) -> Iterator[Batch]:
    at = start.offset
    for frame in frames:
        for part in frame.iter_slices(rows) if frame.height else (frame,):
            yield Batch(to_arrow(part), ARROW, Position(at + part.height, at + part.height), _shift(at))
            at += part.height


def to_arrow(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer)
    return buffer.getvalue()
