"""A body and its Content-Type -> observations, checked. All formats end in the same columns.

Rows of a CSV are counted as an editor counts its lines: the header is row 1, blank lines count, and a line break inside quotes
does not. Rows of Parquet and Arrow are counted from 1, lines of NDJSON from 1.
"""

from __future__ import annotations

import csv
import io
from typing import Literal

import numpy as np

from app.contract import ARROW, CSV, JSON, NDJSON, PARQUET
from app.datasets.columns import ColumnOptions, read_columns, recognise
from app.datasets.documents import read_json, read_ndjson
from app.datasets.observations import MAX_PLACES, Observations, refuse, show
from app.datasets.unpacking import unpack
from app.errors import BodyTooLarge, InvalidObservations, Place, UnsupportedMediaType
from app.frames import pl

MEDIA_TYPES = (JSON, NDJSON, CSV, PARQUET, ARROW)

MAX_HEADER_BYTES = 65_536
MAX_ROWS = 20_000_000
"""Rows of one body: a small table may unpack to more than memory holds."""


def parse(body: bytes, content_type: str, options: ColumnOptions, default_series: str) -> Observations:
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
    if media_type == JSON:
        return read_json(body, default_series)
    if media_type == NDJSON:
        return read_ndjson(body, options, default_series)
    if media_type == CSV:
        return _read_csv(body, options, default_series)
    return _read_binary("parquet" if media_type == PARQUET else "arrow", body, options, default_series)


def _read_csv(body: bytes, options: ColumnOptions, default_series: str) -> Observations:
    header, first_row = _read_header(body)
    roles = recognise(header, options)
    try:
        frame = pl.read_csv(io.BytesIO(body), infer_schema=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).partition("\n")[0]
        refusal = _find_ragged(body, len(header))  # names what the reader only said that it could not read
        raise refusal or InvalidObservations(f"the CSV could not be read: {reason}; is a quote open?") from error
    _check_count(len(frame))
    if frame.width != len(header):
        raise refuse([{"row": first_row, "detail": f"the header is longer than {MAX_HEADER_BYTES} bytes"}], 1)
    if frame[:, -1].null_count():
        _check_fields(body, frame)
    frame = frame.rename(dict(zip(frame.columns, header, strict=True)))
    blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    rows = np.arange(len(frame)) + first_row + 1
    if blank.any():
        frame, rows = frame.filter(~blank), rows[~blank.to_numpy()]
    return read_columns(frame, roles, default_series, rows)


def _read_header(body: bytes) -> tuple[list[str], int]:
    """(names, the row they stand in)."""
    start = len(body) - len(body.lstrip(b"\r\n"))
    row = body.count(b"\n", 0, start) + 1
    try:
        text = body[start : start + MAX_HEADER_BYTES].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(body) - start <= MAX_HEADER_BYTES or error.reason != "unexpected end of data":
            raise _refuse_encoding(body, start + error.start) from error
        text = body[start : start + error.start].decode("utf-8-sig")
    try:
        header = next(csv.reader(io.StringIO(text), strict=True), [])
    except csv.Error as error:
        raise refuse([{"row": row, "detail": f"the header could not be read: {error}"}], 1) from error
    if not header:
        raise refuse(
            [{"row": row, "detail": "expected a header with the names of the columns, found nothing: the body is empty"}], 1
        )
    twice = sorted({name for name in header if header.count(name) > 1})
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
        for row, fields in enumerate(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline="")), 1):
            if len(fields) not in (0, width):
                total += 1
                if total <= MAX_PLACES:
                    places.append({"row": row, "detail": f"expected {width} fields, found {len(fields)}"})
    except csv.Error as error:
        return refuse([{"row": row + 1, "detail": f"this row could not be read: {error}"}], 1)
    except UnicodeDecodeError as error:
        return _refuse_encoding(body, error.start)
    return refuse(places, total) if places else None


def _refuse_encoding(body: bytes, at: int) -> InvalidObservations:
    row = body.count(b"\n", 0, at) + 1
    return refuse([{"row": row, "detail": f"expected text in UTF-8, found the byte 0x{body[at]:02x}"}], 1)


def _read_binary(kind: Literal["parquet", "arrow"], body: bytes, options: ColumnOptions, default_series: str) -> Observations:
    def choose(columns: list[str], rows: int) -> list[str]:
        _check_count(rows)
        return recognise(columns, options).names()

    frame = unpack(kind, body, choose)
    return read_columns(frame, recognise(frame.columns, options), default_series)


def _check_count(count: int) -> None:
    if count > MAX_ROWS:
        raise BodyTooLarge(
            f"one body may hold at most {MAX_ROWS} rows, found {count}; send it in parts (every part may be sent twice without harm)",
            max_rows=MAX_ROWS,
        )
