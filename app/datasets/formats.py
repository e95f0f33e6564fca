"""A body and its Content-Type -> observations, checked. All formats end in the same columns.

Rows of a CSV are counted as an editor counts its lines: the header is row 1, blank lines count, and a line break inside quotes
does not. Rows of Parquet and Arrow are counted from 1, lines of NDJSON from 1.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from contextlib import suppress
from typing import Literal

import numpy as np

from app.contract import ARROW, CSV, JSON, NDJSON, PARQUET
from app.datasets.bounds import Bounds
from app.datasets.columns import ColumnOptions, Roles, read_columns, recognise
from app.datasets.documents import read_json, read_ndjson
from app.datasets.observations import MAX_PLACES, Observations, refuse, show
from app.datasets.unpacking import unpack
from app.errors import InvalidObservations, Place, UnsupportedMediaType
from app.frames import pl

MEDIA_TYPES = (JSON, NDJSON, CSV, PARQUET, ARROW)

MAX_HEADER_BYTES = 65_536
COUNTED_AT_ONCE = 65_536
"""Bytes whose comparison stays in the processor's cache."""
DEFAULT_BOUNDS = Bounds()


def parse(
    body: bytes, content_type: str, options: ColumnOptions, default_series: str, bounds: Bounds = DEFAULT_BOUNDS
) -> Observations:
    """The observations of a request. Raises UnsupportedMediaType, BodyTooLarge and InvalidObservations, the latter naming places."""
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    charset = parameters.partition("charset=")[2].split(";")[0].strip(' "').lower()
    if media_type not in MEDIA_TYPES or charset not in ("", "utf-8", "utf8"):
        found = show(content_type) if content_type else "none"
        raise UnsupportedMediaType(
            f"Content-Type: expected one of {', '.join(MEDIA_TYPES)} (text in UTF-8), found {found}",
            expected=list(MEDIA_TYPES),
            found=content_type[:200],
        )
    if not body:
        raise InvalidObservations("the body is empty: there is nothing to store")
    observations = _read(media_type, body, options, default_series, bounds)
    bounds.check_rows(len(observations.values))
    bounds.check_series(len(observations.names))
    return observations


def _read(media_type: str, body: bytes, options: ColumnOptions, default_series: str, bounds: Bounds) -> Observations:
    if media_type == JSON:
        return read_json(body, default_series, bounds)
    if media_type == NDJSON:
        bounds.check_rows(body.count(b"\n"))
        return read_ndjson(body, options, default_series)
    if media_type == CSV:
        return _read_csv(body, options, default_series, bounds)
    return _read_binary("parquet" if media_type == PARQUET else "arrow", body, options, default_series, bounds)


def _read_csv(body: bytes, options: ColumnOptions, default_series: str, bounds: Bounds) -> Observations:
    breaks, commas = _count_marks(body)
    bounds.check_rows(breaks - 1)  # before a reader makes rows of them, if only blank ones
    header, first_row = _read_header(body, bounds)
    bounds.check_cells(commas)
    roles = recognise(header, options)
    frame = _read_table(body, header, roles)
    if frame.width != len(header):
        raise refuse(
            [{"row": first_row, "detail": f"expected {frame.width} names as the rows have fields, found {len(header)}"}], 1
        )
    if frame[:, -1].null_count():
        _check_fields(body, frame)
    frame = frame.rename(dict(zip(frame.columns, header, strict=True)))
    blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    rows = np.arange(len(frame)) + first_row + 1
    if blank.any():
        frame, rows = frame.filter(~blank), rows[~blank.to_numpy()]
    return read_columns(frame, roles, default_series, rows)


def _read_table(body: bytes, header: list[str], roles: Roles) -> pl.DataFrame:
    """All cells as text, but for the values where each is a finite number or missing, which is read straight away."""
    types = [pl.Float64 if name == roles.value else pl.String for name in header]
    with suppress(pl.exceptions.PolarsError, pl.exceptions.PanicException):
        frame = pl.read_csv(io.BytesIO(body), infer_schema=False, schema_overrides=types)
        if frame.width == len(header) and frame.to_series(header.index(roles.value)).is_finite().all():
            return frame
        del frame  # not both in memory
    try:
        return pl.read_csv(io.BytesIO(body), infer_schema=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).partition("\n")[0]
        refusal = _find_ragged(body, len(header))  # names what the reader only said that it could not read
        raise refusal or InvalidObservations(f"the CSV could not be read: {reason}; is a quote open?") from error


def _count_marks(body: bytes) -> tuple[int, int]:
    """(line breaks, commas). `bytes.count` begins anew behind each one it finds: where every tenth byte is one, it takes four times as long."""
    breaks = commas = 0
    for start in range(0, len(body), COUNTED_AT_ONCE):
        part = np.frombuffer(body, np.uint8, min(COUNTED_AT_ONCE, len(body) - start), start)
        breaks += int(np.count_nonzero(part == ord("\n")))
        commas += int(np.count_nonzero(part == ord(",")))
    return breaks, commas


def _read_header(body: bytes, bounds: Bounds) -> tuple[list[str], int]:
    """(names, the row they stand in)."""
    start = len(body) - len(body.lstrip(b"\r\n"))
    row = body.count(b"\n", 0, start) + 1
    try:
        text = body[start : start + MAX_HEADER_BYTES].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(body) - start <= MAX_HEADER_BYTES or error.reason != "unexpected end of data":
            raise _refuse_encoding(body, start + error.start) from error
        text = body[start : start + error.start].decode("utf-8-sig")
    if len(body) - start > MAX_HEADER_BYTES and "\n" not in text:
        raise refuse([{"row": row, "detail": f"expected a header of at most {MAX_HEADER_BYTES} bytes"}], 1)
    try:
        header = next(csv.reader(io.StringIO(text), strict=True), [])
    except csv.Error as error:
        raise refuse([{"row": row, "detail": f"the header could not be read: {error}"}], 1) from error
    if not header:
        raise refuse(
            [{"row": row, "detail": "expected a header with the names of the columns, found nothing: the body is empty"}], 1
        )
    bounds.check_columns(len(header))
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        raise refuse([{"row": row, "column": name[:80], "detail": "two columns have this name"} for name in twice], len(twice))
    return header, row


def _check_fields(body: bytes, frame: pl.DataFrame) -> None:
    """Refuses rows with too few fields, which the reader fills up: a file cut short must not lose a value in silence."""
    width = frame.width
    if b'"' not in body:
        blank = frame.select(pl.all_horizontal(pl.all().is_null()).sum()).item()
        lines = frame.height - blank + 1
        commas = body.count(b",")
        if commas in (lines * (width - 1), (lines + blank) * (width - 1)):
            return
    error = _find_ragged(body, width)
    if error is not None:
        raise error


def _find_ragged(body: bytes, width: int) -> InvalidObservations | None:
    """The error that names the rows with too few or too many fields, or one that cannot be read; None if there is none."""
    places: list[Place] = []
    total = row = 0
    try:
        text = io.TextIOWrapper(
            io.BytesIO(body), "utf-8-sig", newline=""
        )  # as it is read: the whole as text is four times as much
        for row, fields in enumerate(csv.reader(text), 1):
            if len(fields) not in (0, width):
                total += 1
                if total <= MAX_PLACES:
                    places.append({"row": row, "detail": f"expected {width} fields, found {len(fields)}"})
    except csv.Error as error:
        return refuse([{"row": row + 1, "detail": f"this row could not be read: {error}"}], 1)
    except UnicodeDecodeError:
        return _refuse_encoding(body, _find_undecodable(body))
    return refuse(places, total) if places else None


def _find_undecodable(body: bytes) -> int:
    """Where the first byte stands that is no UTF-8."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(body)


def _refuse_encoding(body: bytes, at: int) -> InvalidObservations:
    row = body.count(b"\n", 0, at) + 1
    return refuse([{"row": row, "detail": f"expected text in UTF-8, found the byte 0x{body[at]:02x}"}], 1)


def _read_binary(
    kind: Literal["parquet", "arrow"], body: bytes, options: ColumnOptions, default_series: str, bounds: Bounds
) -> Observations:
    def choose(columns: list[str], rows: int) -> list[str]:
        bounds.check_columns(len(columns))
        bounds.check_rows(rows)
        return recognise(columns, options).names()

    frame = unpack(kind, body, choose, max_bytes=bounds.unpacking_bytes, max_seconds=bounds.unpacking_seconds)
    return read_columns(frame, recognise(frame.columns, options), default_series)
