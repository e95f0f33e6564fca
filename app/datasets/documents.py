"""JSON bodies -> observations: the compact form, row objects, and row objects line by line (NDJSON).

Rows are turned into columns by C loops (map, itemgetter): a model for each row would take ten times as long. Only when a
body is refused does Python look at its rows one by one, to name those that are wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import itemgetter
from typing import Annotated, Any

import numpy as np
import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.calendar import MAX_STEP
from app.datasets import timestamps
from app.datasets.bounds import Bounds
from app.datasets.chunks import Floats
from app.datasets.columns import ColumnOptions, Roles, describe_id, read_series, recognise
from app.datasets.observations import MAX_PLACES, Bools, Ints, Observations, Refusals, mark_missing, refuse, show
from app.datasets.schemas import check_freq
from app.datasets.store import SERIES_ID
from app.errors import InvalidObservations, Place
from app.frames import pl
from app.problems import from_validation

NUMBERS = {float, int, type(None)}
FEW = 256
"""Rows that are read faster one by one."""
ROW_ROLES = Roles("series", "timestamp", "value")


def _check_id(name: str) -> str:
    if not SERIES_ID.fullmatch(name):
        raise PydanticCustomError("series_id", "{detail}", {"detail": describe_id(name)})
    return name


def _check_start(start: Any) -> Any:
    if type(start) not in (str, int) or (isinstance(start, int) and abs(start) > MAX_STEP):
        raise PydanticCustomError("start", "{detail}", {"detail": timestamps.describe(start)})
    return start


VALUES_SCHEMA = {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "number"}, {"type": "null"}]}}
MAX_FIELDS = 20
"""Of one series: with more, the rest is not looked at one by one."""
TIMESTAMP_SCHEMA = {
    "anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}, {"type": "integer"}]
}


class CompactSeries(BaseModel):
    """One series as a start and the values from there on, one for each step."""

    model_config = ConfigDict(strict=True, extra="forbid")
    id: Annotated[str, AfterValidator(_check_id)] = Field(description="1 to 256 characters, none of them a control character.")
    start: Annotated[Any, AfterValidator(_check_start), WithJsonSchema(TIMESTAMP_SCHEMA)] = Field(
        description="The first value's timestamp; of a dataset with freq step an integer."
    )
    freq: Annotated[str, AfterValidator(check_freq)] | None = Field(None, description="Needed unless the dataset has one.")
    values: Annotated[list[Any], WithJsonSchema(VALUES_SCHEMA)] = Field(min_length=1, description="null is a missing value.")
    """Checked by `_read_values`, which tells twenty of a million wrong ones; pydantic would hold a description of each."""


def read_json(body: bytes, default_series: str, bounds: Bounds) -> Observations:
    """The observations of `{"series": [...]}` or `{"observations": [...]}`."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _refuse_text(body, error) from error
    if not isinstance(document, dict) or document.keys() not in ({"series"}, {"observations"}):
        found = (
            f"the fields {', '.join(map(show, list(document)[:20])) or 'none'}"
            if isinstance(document, dict)
            else show(document)
        )
        raise refuse([_at("#", f'expected {{"series": [...]}} or {{"observations": [...]}}, found {found}')], 1)
    if "series" in document:
        return _read_compact(document["series"], bounds)
    rows = document["observations"]
    if not isinstance(rows, list) or not rows:
        raise refuse([_at("#/observations", f"expected a list with at least one observation, found {show(rows)}")], 1)
    bounds.check_rows(len(rows))
    roles = ROW_ROLES if not isinstance(rows[0], dict) or "series" in rows[0] else Roles(None, "timestamp", "value")
    return _read_rows(rows, roles, ColumnOptions(), default_series, lambda i, role: {"pointer": f"#/observations/{i}/{role}"})


def read_ndjson(body: bytes, options: ColumnOptions, default_series: str) -> Observations:
    """One row object a line; blank lines are passed over. Rows are numbered by their lines, from 1."""
    lines = body.split(b"\n")
    numbers = np.array([number for number, line in enumerate(lines, 1) if line.strip()], np.int64)
    lines = [line for line in lines if line.strip()]
    try:
        rows = list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        raise _refuse_lines(lines, numbers) from None
    if not rows:
        raise InvalidObservations("the body holds no observations")
    if not isinstance(rows[0], dict):
        raise refuse([{"row": int(numbers[0]), "detail": f"expected an object, found {show(rows[0])}"}], 1)
    roles = recognise(list(rows[0]), options)
    return _read_rows(
        rows, roles, options, default_series, lambda i, role: {"row": int(numbers[i]), "column": roles.column(role)}
    )


def _read_blocks(series: Any, bounds: Bounds) -> list[CompactSeries]:
    """The series, checked one by one until enough are wrong to be told."""
    if not isinstance(series, list) or not series:
        raise refuse([_at("#/series", f"expected a list with at least one series, found {show(series)}")], 1)
    bounds.check_series(len(series))
    blocks, wrong = [], []
    for index, found in enumerate(series):
        if isinstance(found, dict) and len(found) > MAX_FIELDS:
            raise refuse(
                [_at(f"#/series/{index}", f"expected {', '.join(CompactSeries.model_fields)}, found {len(found)} fields")], 1
            )
        try:
            blocks.append(CompactSeries.model_validate(found))
        except ValidationError as error:
            wrong += [{**each, "loc": ("body", "series", index, *each["loc"])} for each in error.errors()]
            if len(wrong) >= MAX_PLACES:
                break
    if wrong:
        problem = from_validation(wrong)
        raise InvalidObservations(problem.detail, errors=problem.errors)
    return blocks


def _read_compact(series: Any, bounds: Bounds) -> Observations:
    blocks = _read_blocks(series, bounds)
    freqs = {block.freq for block in blocks} - {None}
    if len(freqs) > 1:
        raise refuse(
            [_at("#/series", f"expected one freq for all series of a dataset, found {', '.join(sorted(map(str, freqs)))}")], 1
        )
    lengths = np.array([len(block.values) for block in blocks])
    ends = np.cumsum(lengths)

    def place(index: int, role: str) -> Place:
        if role == "value":
            block = int(np.searchsorted(ends, index, side="right"))
            return {"pointer": f"#/series/{block}/values/{index - int(ends[block] - lengths[block])}"}
        return {"pointer": f"#/series/{index}/{'id' if role == 'series' else 'start'}"}

    refusals = Refusals()
    points = _read_points([block.start for block in blocks], place, refusals)
    values = np.concatenate([_read_block(block, int(end), place, refusals) for block, end in zip(blocks, ends, strict=True)])
    refusals.raise_if_any()
    names = list(dict.fromkeys(block.id for block in blocks))
    index = {name: position for position, name in enumerate(names)}
    return Observations(
        names,
        np.array([index[block.id] for block in blocks]),
        points.points,
        points.is_naive,
        points.is_integer,
        values,
        place,
        lengths,
        freqs.pop() if freqs else None,
    )


def _read_block(block: CompactSeries, end: int, place: Callable[[int, str], Place], refusals: Refusals) -> Floats:
    """The values of one series, the last of which is the `end`-th but one of all."""
    begin = end - len(block.values)
    return _read_values(block.values, lambda i, role: place(begin + i, role), refusals)


def _read_rows(
    rows: list[Any], roles: Roles, options: ColumnOptions, default_series: str, place: Callable[[int, str], Place]
) -> Observations:
    columns = _take_columns(rows, roles.names(), options)
    if columns is None:
        raise _refuse_rows(rows, roles.names(), options, place)
    refusals = Refusals()
    series = np.zeros(len(rows), np.int64)
    ids = [default_series]
    if roles.series is not None:
        texts = columns[roles.series]
        if len(texts) <= FEW and all(type(text) is str and SERIES_ID.fullmatch(text) for text in texts):
            index = {name: number for number, name in enumerate(dict.fromkeys(texts))}
            ids, series = list(index), np.array([index[text] for text in texts], np.int64)
        elif set(map(type, texts)) == {str}:
            column = pl.Series(roles.series, texts, dtype=pl.String)
            ids, series = read_series(column, default_series, len(rows), place, refusals)
        else:
            wrong = [i for i, found in enumerate(texts) if type(found) is not str]
            refusals.add(wrong, lambda i: place(i, "series"), lambda i: describe_id(texts[i]))
    points = _read_points(columns[roles.timestamp], place, refusals)
    values = _read_values(columns[roles.value], place, refusals)
    refusals.raise_if_any()
    return Observations(ids, series, points.points, points.is_naive, points.is_integer, values, place)


def _take_columns(rows: list[Any], names: list[str], options: ColumnOptions) -> dict[str, list[Any]] | None:
    """The fields of all rows as columns; None if a row is no object, lacks one, or has another that may not be there."""
    if set(map(type, rows)) != {dict} or (not options.ignore_others and set(map(len, rows)) != {len(names)}):
        return None
    try:
        return {name: list(map(itemgetter(name), rows)) for name in names}
    except KeyError:
        return None


def _read_points(found: Any, place: Callable[[int, str], Place], refusals: Refusals) -> timestamps.Points:
    """Points of strings or of integers: the first one says of which."""
    kind = int if type(found[0]) is int else str
    bad: Bools = np.zeros(len(found), np.bool_)
    if set(map(type, found)) != {kind} or (kind is int and (min(found) < -MAX_STEP or max(found) > MAX_STEP)):
        bad = np.array([type(each) is not kind or (type(each) is int and abs(each) > MAX_STEP) for each in found])
    if (
        kind is str
        and len(found) <= FEW
        and not bad.any()
        and (few := timestamps.read_few(found)) is not None
        and not few.bad.any()
    ):
        return few
    readable = [None if wrong else each for each, wrong in zip(found, bad.tolist(), strict=True)] if bad.any() else found
    points = timestamps.read_points(pl.Series(readable, dtype=pl.Int64 if kind is int else pl.String))
    if points is None:
        raise TypeError("text and integers are always read")
    wrong = np.flatnonzero(bad | points.bad)
    refusals.add(wrong, lambda i: place(i, "timestamp"), lambda i: timestamps.describe(found[i]))
    return points


def _read_values(found: Any, place: Callable[[int, str], Place], refusals: Refusals) -> Floats:
    if set(map(type, found)) <= NUMBERS:
        return mark_missing(np.array(found, np.float64))
    wrong = [i for i, each in enumerate(found) if type(each) not in NUMBERS]
    refusals.add(wrong, lambda i: place(i, "value"), lambda i: f"expected a number or null, found {show(found[i])}")
    return np.zeros(0)


def _refuse_rows(
    rows: list[Any], names: list[str], options: ColumnOptions, place: Callable[[int, str], Place]
) -> InvalidObservations:
    """Names the rows that are no objects, lack a field or have another."""
    places: list[Place] = []
    wanted = set(names)
    total = 0
    for index, row in enumerate(rows):
        if len(places) >= MAX_PLACES:  # the others are only counted: there may be millions
            total += (
                not isinstance(row, dict) or (not options.ignore_others and len(row) != len(names)) or not wanted <= row.keys()
            )
            continue
        if not isinstance(row, dict):
            details = [f"expected an object, found {show(row)}"]
        else:
            details = [f"the field {show(name)} is missing" for name in names if name not in row]
            if not options.ignore_others:
                details += [
                    f"the field {show(name)} is not known; expected {', '.join(names)}" for name in row if name not in names
                ]
        total += len(details)
        whole = {
            key: str(value).rpartition("/")[0] if key == "pointer" else value for key, value in place(index, "value").items()
        }
        whole.pop("column", None)
        places += [{**whole, "detail": detail} for detail in details[: MAX_PLACES - len(places)]]
    return refuse(places, total)


def _refuse_lines(lines: list[bytes], numbers: Ints) -> InvalidObservations:
    places: list[Place] = []
    total = 0
    for line, number in zip(lines, numbers.tolist(), strict=True):
        try:
            orjson.loads(line)
        except orjson.JSONDecodeError as error:
            total += 1
            if total <= MAX_PLACES:
                places.append({"row": number, "detail": f"not valid JSON: {error.msg} (character {error.pos})"})
    return refuse(places, total)


def _refuse_text(body: bytes, error: orjson.JSONDecodeError) -> InvalidObservations:
    """What is no JSON; NaN, Infinity and 1e400, which other readers let pass, are named by their pointers."""
    if not body.strip():
        return refuse([_at("#", "expected JSON, found nothing: the body is empty")], 1)
    places: list[Place] = []
    try:
        document = json.loads(body)
        for key in ("series", "observations"):
            for i, row in enumerate(document.get(key, [])):
                if key == "series":
                    places += [
                        _at(f"#/series/{i}/values/{j}", "expected a finite number or null")
                        for j, value in enumerate(row["values"])
                        if isinstance(value, float) and not np.isfinite(value)
                    ]
                elif isinstance(row["value"], float) and not np.isfinite(row["value"]):
                    places.append(_at(f"#/observations/{i}/value", "expected a finite number or null"))
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        places = []  # more is wrong than a number: the parser's own words tell where
    return refuse(
        places or [_at("#", f"not valid JSON: {error.msg} (line {error.lineno}, character {error.colno})")], len(places) or 1
    )


def _at(pointer: str, detail: str) -> Place:
    return {"pointer": pointer, "detail": detail}
