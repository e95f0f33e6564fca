"""Tables -> observations: which column is which, and what their cells say. A DataFrame in, checked columns out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from app.datasets import timestamps
from app.datasets.chunks import Floats
from app.datasets.observations import Ints, Observations, Refusals, mark_missing, number_distinct, show
from app.datasets.store import SERIES_ID
from app.errors import InvalidObservations, Place
from app.frames import pl

SERIES_NAMES = ("series", "series_id", "unique_id", "item_id")
TIMESTAMP_NAMES = ("timestamp", "ds", "date", "datetime", "time")
VALUE_NAMES = ("value", "y", "target")
MAX_ID_CHARACTERS = 256
BLANKS = " \t"
"""What may stand around a number in a text."""


@dataclass(frozen=True)
class ColumnOptions:
    """What the query says about columns: their names where they are not the usual ones, and whether others may be there."""

    series: str | None = None
    timestamp: str | None = None
    value: str | None = None
    ignore_others: bool = False


@dataclass(frozen=True)
class Roles:
    """The column of each role; no series column means that all rows are one series."""

    series: str | None
    timestamp: str
    value: str

    def column(self, role: str) -> str:
        return {"series": self.series or "series", "timestamp": self.timestamp, "value": self.value}[role]

    def names(self) -> list[str]:
        return [name for name in (self.series, self.timestamp, self.value) if name is not None]


def recognise(found: list[str], options: ColumnOptions) -> Roles:
    """Which of the columns found plays which role. Raises InvalidObservations for a missing, doubtful or other column."""
    roles = Roles(
        _find_role("series", options.series, SERIES_NAMES, found),
        _find_role("timestamp", options.timestamp, TIMESTAMP_NAMES, found) or "",
        _find_role("value", options.value, VALUE_NAMES, found) or "",
    )
    if len(set(roles.names())) < len(roles.names()):
        raise InvalidObservations(f"one column cannot play two roles, found {', '.join(map(show, roles.names()))}")
    others = [name for name in found if name not in roles.names()]
    if others and not options.ignore_others:
        raise InvalidObservations(
            f"columns that are not read: {', '.join(map(show, others[:20]))}; only a series, a timestamp and a value are learned from so "
            "far: remove the others, name the right ones (?value_column=...), or leave them out with ?ignore_columns=true",
            errors=[{"column": name[:80], "detail": "this column would not be read"} for name in others[:20]],
        )
    return roles


def _find_role(role: str, given: str | None, usual: tuple[str, ...], found: list[str]) -> str | None:
    matches = [name for name in found if (name == given if given is not None else name.strip().lower() in usual)]
    if len(matches) == 1:
        return matches[0]
    if not matches and given is None and role == "series":
        return None
    expected = f"?{role}_column={given!r}"[:200] if given is not None else f"one of {', '.join(usual)}, or ?{role}_column="
    names = ", ".join(map(show, (matches or found)[:20]))
    detail = f"expected one {role} column ({expected}), found {f'{len(matches)}: ' if matches else ''}{names}"
    if len(found) == 1 and any(mark in found[0] for mark in ";\t|"):
        detail += "; columns are separated by commas"
    raise InvalidObservations(detail, errors=[{"column": given or role, "detail": detail}])


def read_columns(frame: pl.DataFrame, roles: Roles, default_series: str, text_rows: Ints | None = None) -> Observations:
    """The frame's observations. Of a text format cells are text, or values that are numbers already, and `text_rows` numbers the rows as
    the sender counts them; of others the columns have types, among which text is no number, and rows count from 1."""
    if frame.is_empty():
        raise InvalidObservations("the table has columns but no rows: there is nothing to store")

    def place(index: int, role: str) -> Place:
        return {"row": int(text_rows[index]) if text_rows is not None else index + 1, "column": roles.column(role)}

    refusals = Refusals()
    names, series = read_series(frame[roles.series] if roles.series else None, default_series, len(frame), place, refusals)
    column = frame[roles.timestamp]
    points = timestamps.read_points(column)
    if points is None:
        raise _wrong_type(roles.timestamp, "timestamps, dates or integers", column.dtype)
    refusals.add(np.flatnonzero(points.bad), lambda i: place(i, "timestamp"), lambda i: timestamps.describe_cell(column, i))
    values = _read_values(frame[roles.value], text_rows is not None, lambda i: place(i, "value"), refusals)
    refusals.raise_if_any()
    return Observations(names, series, points.points, points.is_naive, points.is_integer, values, place)


def read_series(
    column: pl.Series | None, default: str, count: int, place: Callable[[int, str], Place], refusals: Refusals
) -> tuple[list[str], Ints]:
    """(the distinct ids in order of appearance, the index of each row's)."""
    if column is None:
        return [default], np.zeros(count, np.int64)
    if not (column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)):
        raise _wrong_type(column.name, "text", column.dtype)
    column = column.cast(pl.String)
    if not column.null_count():
        distinct, rows = number_distinct(column)
        names = distinct.to_list()
        if all(SERIES_ID.fullmatch(name) for name in names):
            return names, rows
    wrong = [name for name in column.unique().drop_nulls() if not SERIES_ID.fullmatch(name)]
    bad = np.flatnonzero((column.is_null() | column.is_in(wrong)).fill_null(True).to_numpy())
    refusals.add(bad, lambda i: place(i, "series"), lambda i: describe_id(column[i]))
    return [], np.zeros(count, np.int64)


def describe_id(found: object) -> str:
    """Why a series id is refused."""
    if isinstance(found, str) and len(found) > MAX_ID_CHARACTERS:
        return f"expected a series id of at most {MAX_ID_CHARACTERS} characters, found {len(found)}"
    return f"expected a series id (1 to {MAX_ID_CHARACTERS} characters, none of them a control character), found {show(found)}"


def _read_values(column: pl.Series, is_text: bool, place: Callable[[int], Place], refusals: Refusals) -> Floats:
    if is_text and column.dtype == pl.String:
        trimmed = column.str.strip_chars(BLANKS)
        numbers = trimmed.cast(pl.Float64, strict=False)
        bad = numbers.is_null() & column.is_not_null() & (trimmed != "")
    elif column.dtype.is_numeric() or column.dtype == pl.Null:
        numbers, bad = column.cast(pl.Float64), pl.repeat(False, len(column), eager=True)
    else:
        raise _wrong_type(column.name, "numbers", column.dtype)
    bad |= ~numbers.is_finite().fill_null(True)
    refusals.add(
        np.flatnonzero(bad.to_numpy()),
        place,
        lambda i: f"expected a finite number or nothing (missing), found {show(column[i])}",
    )
    return mark_missing(numbers.to_numpy(writable=True))


def _wrong_type(column: str, expected: str, found: object) -> InvalidObservations:
    detail = f"expected {expected}, found {found}"
    return InvalidObservations(f"column {column}: {detail}", errors=[{"column": column, "detail": detail}])
