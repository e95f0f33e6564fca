"""Timestamps as clients write them -> integers: RFC 3339 text, dates, datetimes of any unit, and the integers of `step` datasets."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from app.calendar import DAY_US, MAX_STEP
from app.datasets.observations import Bools, Ints, number_distinct
from app.frames import pl
from app.zones import END_US, FIRST_US, FIRST_YEAR, LAST_YEAR, SECOND_US

DATE, CLOCK = "[0-9]{4}-[0-9]{2}-[0-9]{2}", "[0-9]{2}:[0-9]{2}:[0-9]{2}"
USUAL_FORMS = [
    (f"{DATE}T{CLOCK}Z", "%Y-%m-%dT%H:%M:%SZ", False),
    (f"{DATE} {CLOCK}", "%Y-%m-%d %H:%M:%S", True),
    (f"{DATE}T{CLOCK}", "%Y-%m-%dT%H:%M:%S", True),
    (DATE, "%Y-%m-%d", True),
]
"""(regex, format, is naive): a column in one of these is parsed at once; any other goes through ANY_FORM."""
ANY_FORM = (
    rf"^({DATE})(?:[Tt ]([0-9]{{2}}:[0-9]{{2}}(?::[0-9]{{2}}(?:\.[0-9]{{1,9}})?)?)([Zz]|[+-][0-9]{{2}}(?::?[0-9]{{2}})?)?)?$"
)
INTEGER = r"^[+-]?[0-9]{1,19}$"
EXPECTED = "a timestamp as RFC 3339 writes it (2024-01-31T12:00:00Z) or a date"
UNIT_HINT = "is the unit of the timestamps right?"
MAX_DIGITS = 20
"""Of an integer that could be a time: Python reads no number of thousands of digits, and no float holds one of hundreds."""
FOLDED_FROM, FOLDED_SAMPLE = 10_000, 1_000
"""The shortest column of which a sample of so many tells whether most of it is said more than once."""
UNITS = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
EPOCH_UNITS = {"seconds": 10**8, "milliseconds": 10**11, "microseconds": 10**14, "nanoseconds": 10**17}
"""The smallest integer that, meant as a time, is likely to be of this unit."""


@dataclass(frozen=True)
class Points:
    """Points [B] as `Observations` has them; `bad` marks those that could not be read, whose points mean nothing."""

    points: Ints
    is_naive: Bools
    is_integer: bool
    bad: Bools


def read_points(column: pl.Series) -> Points | None:
    """The points of a column of text, datetimes, dates or integers; None if its type is none of these."""
    if isinstance(column.dtype, pl.Datetime):
        return _from_datetimes(column, column.dtype)
    if column.dtype == pl.Date:
        return _from_microseconds(column.to_physical().cast(pl.Int64) * DAY_US, is_naive=True)
    if column.dtype == pl.String:
        return _from_text(column)
    if column.dtype.is_integer():
        return from_integers(column)
    return None


def read_few(texts: Sequence[str]) -> Points | None:
    """The points of a few texts in one of the usual forms; None where one is in another: to start polars for them costs more than
    to read them."""
    for form, _, is_naive in USUAL_FORMS:
        if all(re.fullmatch(form, text) for text in texts):
            try:
                points = np.array([text.removesuffix("Z") for text in texts], "datetime64[us]").view(np.int64)
            except ValueError:  # a day that no month has
                return None
            bad = (points < FIRST_US) | (points >= END_US)
            return Points(points, np.full(len(points), is_naive), is_integer=False, bad=bad)
    return None


def from_integers(column: pl.Series) -> Points:
    steps = column.cast(pl.Int64, strict=False)
    points = steps.fill_null(0).to_numpy()
    bad = steps.is_null().to_numpy() | (np.abs(points) > MAX_STEP) | (points == np.iinfo(np.int64).min)
    return Points(points, np.zeros(len(points), np.bool_), is_integer=True, bad=bad)


def guess_unit(number: int) -> str | None:
    """Which time an integer was probably meant to be, told to whoever sent it; None for one that is no time."""
    for unit, least in reversed(EPOCH_UNITS.items()):
        if abs(number) >= least:
            seconds = number / 10 ** (3 * list(EPOCH_UNITS).index(unit))
            if not FIRST_US < seconds * SECOND_US < END_US:
                return None
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=round(seconds))
            return f"{number} looks like {unit} since 1970: send {moment:%Y-%m-%dT%H:%M:%SZ}"
    if re.fullmatch(r"(1[6-9]|2[0-2])[0-9]{2}(0[1-9]|1[0-2])([0-2][0-9]|3[01])", text := str(number)):
        return f"{number} looks like a date: send {text[:4]}-{text[4:6]}-{text[6:]}"
    return None


def describe_cell(column: pl.Series, row: int) -> str:
    """Why the timestamp in a row could not be read. A datetime may lie beyond what Python can show: its number is told."""
    if column.dtype.is_temporal() and column[row : row + 1].is_not_null().all():
        unit = column.dtype.time_unit if isinstance(column.dtype, pl.Datetime) else "days"
        return f"expected a year between {FIRST_YEAR} and {LAST_YEAR}, found {column.to_physical()[row]} {unit} since 1970; {UNIT_HINT}"
    return describe(column[row])


def describe(found: object) -> str:
    """Why a timestamp could not be read."""
    if found is None or found == "":
        return f"expected {EXPECTED}, found nothing"
    text = str(found)
    if re.fullmatch("-?[0-9]+", text):
        hint = guess_unit(int(text)) if len(text) <= MAX_DIGITS else None
        return f"expected {EXPECTED}, or an integer between -{MAX_STEP} and {MAX_STEP}, found {text[:40]}{f'; {hint}' if hint else ''}"
    if re.match(DATE, text) and not FIRST_YEAR <= int(text[:4]) <= LAST_YEAR:
        return f"expected a year between {FIRST_YEAR} and {LAST_YEAR}, found {text[:40]}; {UNIT_HINT}"
    return f"expected {EXPECTED}, found {text[:80]!r}"


def _from_datetimes(column: pl.Series, dtype: pl.Datetime) -> Points:
    per_second = UNITS[dtype.time_unit]
    numbers = column.to_physical()
    outside = (numbers < FIRST_US // SECOND_US * per_second) | (numbers >= END_US // SECOND_US * per_second)
    inside = pl.select(pl.when(~outside).then(numbers)).to_series()
    factor = max(SECOND_US // per_second, 1)
    return _from_microseconds(inside * factor // max(per_second // SECOND_US, 1), is_naive=dtype.time_zone is None)


def _from_text(text: pl.Series) -> Points:
    """Of a long column that mostly says the same again, as that of many series does, each text is read once."""
    if len(text) < FOLDED_FROM or text.null_count():
        return _from_texts(text)
    period = _find_period(text)
    if period is not None:
        points = _from_texts(text.head(period))
        return _arrange(points, lambda cells: np.resize(cells, len(text)))
    if text.gather_every(len(text) // FOLDED_SAMPLE).n_unique() > FOLDED_SAMPLE // 2:
        return _from_texts(text)
    distinct, rows = number_distinct(text)
    return _arrange(_from_texts(distinct), lambda cells: cells[rows])


def _arrange(points: Points, cells: Callable[[Any], Any]) -> Points:
    """The same points in another order and number."""
    return Points(cells(points.points), cells(points.is_naive), points.is_integer, cells(points.bad))


def _find_period(text: pl.Series) -> int | None:
    """After how many cells the column begins again, over and over: series after series with the same timestamps. None if it does not."""
    again = (text.head(len(text) // 2 + 1) == text[0]).arg_true()
    if len(again) < 2:
        return None
    period = again[1]
    for count in (2 * period, len(text)):  # most that do not repeat differ early
        if not (text.slice(period, count - period) == text.head(count - period)).all():
            return None
    return int(period)


def _from_texts(text: pl.Series) -> Points:
    first = next((found for found in text if found is not None), "")
    if re.match(INTEGER, first):
        return from_integers(pl.select(pl.when(text.str.contains(INTEGER)).then(text)).to_series().cast(pl.Int64, strict=False))
    for form, format_, is_naive in USUAL_FORMS:
        if re.fullmatch(form, first) and text.str.contains(f"^{form}$").all():
            return _from_microseconds(_parse(text, format_), is_naive=is_naive)
    parts = pl.select(text.alias("text").str.extract_groups(ANY_FORM)).to_series().struct.unnest()
    parts.columns = ["date", "clock", "offset"]
    clock, offset = pl.col("clock").fill_null("00:00:00"), pl.col("offset")
    hours, minutes = offset.str.slice(1, 2).cast(pl.Int64, strict=False), offset.str.slice(-2).cast(pl.Int64, strict=False)
    minutes = pl.when(offset.str.len_bytes() > 3).then(minutes).otherwise(0)
    east = pl.when(hours.is_between(0, 23) & minutes.is_between(0, 59)).then((hours * 60 + minutes) * 60 * SECOND_US)
    plain = parts.select(
        pl.concat_str(
            "date", pl.lit("T"), clock, pl.when(clock.str.len_bytes() == 5).then(pl.lit(":00")).otherwise(pl.lit(""))
        ),
        east=pl.when(offset.is_null() | offset.is_in(["Z", "z"]))
        .then(0)
        .when(offset.str.starts_with("-"))
        .then(-east)
        .otherwise(east),
    )
    local = _parse(plain["date"], "%Y-%m-%dT%H:%M:%S%.f")
    return _from_microseconds(local - plain["east"], is_naive=parts["offset"].is_null().to_numpy())


def _parse(text: pl.Series, format_: str) -> pl.Series:
    return text.str.to_datetime(format_, time_unit="us", strict=False).to_physical()


def _from_microseconds(numbers: pl.Series, is_naive: bool | Bools) -> Points:
    bad = (numbers.is_null() | (numbers < FIRST_US) | (numbers >= END_US)).fill_null(True).to_numpy()
    naive = np.full(len(numbers), is_naive) if isinstance(is_naive, bool) else is_naive
    return Points(numbers.fill_null(0).to_numpy(), naive, is_integer=False, bad=bad)
