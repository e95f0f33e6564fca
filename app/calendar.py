"""freq, phase, grid: timestamp <-> step, season lengths. numpy only; app/zones.py knows the time zones.

The closed list of freqs, in pandas' spelling:

    s min h              with a multiple ("15min", "6h")      a lattice in UTC, summer time or not
    D B W-MON ... W-SUN  days, weekdays, weeks                follow the local calendar of the time zone
    MS QS YS, ME QE YE   first or last day of the period;     follow the local calendar
                         with an anchor (QS-FEB, YE-MAR)
    step                 no time at all: integers

A grid is a freq and a phase in microseconds: of a lattice the offset from the epoch, of days and weeks the time of day, of
MS QS YS the day of the month as well (the 15th at 06:00 is 14 days and 6 hours; never beyond the 28th), of ME QE YE the time
of day. Step 0 lies at 1970, so a step means the same in every request. Timestamps are int64 microseconds since 1970 in UTC.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.errors import FreqUndetermined, InvalidRequest
from app.zones import EPOCH, SECOND_US, Zone, load_zone

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Moments = NDArray[np.datetime64]

LATTICE_US = {"h": 3600 * SECOND_US, "min": 60 * SECOND_US, "s": SECOND_US}
DAY_US = 86_400 * SECOND_US
MAX_MULTIPLE_US = 366 * DAY_US
MAX_PHASE_DAYS = 28
MAX_STEP = 2**53
"""Steps stay exact in JSON readers that know only doubles."""

WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
PERIOD_MONTHS = {"M": 1, "Q": 3, "Y": 12}
MODERN = {
    "H": "h",
    "T": "min",
    "S": "s",
    "M": "ME",
    "Q": "QE",
    "A": "YE",
    "Y": "YE",
    "AS": "YS",
    "d": "D",
    "w": "W",
    "m": "min",
}
"""What pandas once called them, and slips of case: worth a hint, not a second spelling."""
EPOCH_WEEKDAY = 3
GLANCED, WIDEST_GRID = 1_000, 8
"""How many timestamps tell on which grid all may lie, and how many times as long as they are many it may be to be marked on."""


Kind = Literal["lattice", "D", "B", "W", "start", "end", "step"]


@dataclass(frozen=True)
class Freq:
    """One entry of the list. `size`: microseconds of a lattice, days of a week, months of a period; `anchor`: where it begins."""

    text: str
    kind: Kind
    size: int = 1
    anchor: int = 0

    @property
    def is_local(self) -> bool:
        """Whether its steps follow the local calendar."""
        return self.kind not in ("lattice", "step")


@lru_cache(maxsize=1024)
def parse_freq(text: str) -> Freq:
    """The freq that `text` spells, canonical (60min -> h, QS-APR -> QS, W -> W-SUN). Raises InvalidRequest with the list."""
    plain: dict[str, Kind] = {"step": "step", "D": "D", "B": "B"}
    if text in plain:
        return Freq(text, plain[text])
    if match := re.fullmatch(r"([1-9][0-9]{0,8})?(s|min|h)", text):
        size = int(match[1] or 1) * LATTICE_US[match[2]]
        if size <= MAX_MULTIPLE_US:
            return _lattice(size)
    if match := re.fullmatch(rf"W(?:-({'|'.join(WEEKDAYS)}))?", text):
        day = match[1] or "SUN"
        return Freq(f"W-{day}", "W", 7, WEEKDAYS.index(day) - EPOCH_WEEKDAY)
    if match := re.fullmatch(rf"([MQY])([SE])(?:-({'|'.join(MONTHS)}))?", text):
        period, side, anchor = match.groups()
        if not (period == "M" and anchor):
            return _period(PERIOD_MONTHS[period], side, MONTHS.index(anchor) if anchor else (0 if side == "S" else 11))
    hint = f"; did you mean {MODERN[text]!r}?" if text in MODERN else ""
    raise InvalidRequest(
        f"freq: expected s, min or h with or without a multiple (15min), D, B, W-MON to W-SUN, MS, ME, QS, QE, YS, YE "
        f"(with an anchor: QS-FEB, YE-MAR) or step, found {text[:40]!r}{hint}",
        errors=[{"pointer": "#/freq", "detail": f"{text[:40]!r} is not a freq{hint}"}],
    )


def _lattice(size: int) -> Freq:
    unit = next(name for name, unit_us in LATTICE_US.items() if size % unit_us == 0)
    multiple = size // LATTICE_US[unit]
    return Freq(f"{multiple if multiple > 1 else ''}{unit}", "lattice", size)


def _period(months: int, side: str, anchor: int) -> Freq:
    anchor %= months
    name = {1: "M", 3: "Q", 12: "Y"}[months] + side
    usual = 0 if side == "S" else months - 1
    month = anchor if side == "S" else anchor + 12 - months  # QE and YE are named by the last such month of the year
    return Freq(name if anchor == usual else f"{name}-{MONTHS[month]}", "start" if side == "S" else "end", months, anchor)


def season_lengths(freq: str) -> tuple[int, ...]:
    """The season lengths to try, in steps, shortest first; none where a calendar suggests none."""
    parsed = parse_freq(freq)
    if parsed.kind == "lattice":
        cycles = (60 * SECOND_US, 3600 * SECOND_US) if parsed.size < 60 * SECOND_US else (DAY_US, 7 * DAY_US)
        return tuple(cycle // parsed.size for cycle in cycles if cycle % parsed.size == 0 and cycle > parsed.size)
    if parsed.kind in ("start", "end"):
        return (12 // parsed.size,) if parsed.size < 12 else ()
    return {"D": (7,), "B": (5,), "W": (52,)}.get(parsed.kind, ())


@dataclass(frozen=True)
class Grid:
    """Where the timestamps of a dataset lie. Of a `step` grid the timestamps are the steps themselves."""

    freq: str
    phase_us: int = 0
    time_zone: str = "UTC"

    def to_steps(self, timestamps: NDArray[Any]) -> tuple[Ints, Bools]:
        """(steps, on_grid) of timestamps (datetime64[us] or int64 microseconds). Off the grid a step is the one it falls into:
        at or before it, but of ME QE YE the end of its period. So `fold` points by the steps, or refuse by `on_grid`."""
        utc, freq = to_us(timestamps), self._freq
        if freq.kind == "step":
            return utc, np.abs(utc) <= MAX_STEP
        if freq.kind == "lattice":
            steps = (utc - self.phase_us) // freq.size
            return steps, steps * freq.size + self.phase_us == utc
        zone = self._zone
        local = zone.to_local(utc)
        steps = self._period(local - self.phase_us)
        on_grid = self._wall(steps) == local
        if not on_grid.all() and len(zone.starts_us):  # a wall time that does not exist that day has moved forward
            rest = np.flatnonzero(~on_grid)
            on_grid[rest] = to_us(self.to_timestamps(steps[rest])) == utc[rest]
        return steps, on_grid

    def to_timestamps(self, steps: NDArray[Any]) -> Moments:
        """datetime64[us] in UTC of the steps. A wall time that a day does not have moves forward; one it has twice is the earlier."""
        steps = np.asarray(steps, np.int64)
        if self._freq.kind == "step":
            raise ValueError("a step grid has no timestamps")
        if self._freq.kind == "lattice":
            return (steps * self._freq.size + self.phase_us).view("datetime64[us]")
        return self._zone.to_utc(self._wall(steps))[0].view("datetime64[us]")

    def to_labels(self, steps: NDArray[Any]) -> list[str] | list[int]:
        """The steps as clients see them: RFC 3339 in UTC with Z, or the integers of a `step` grid."""
        if self._freq.kind == "step":
            return list(np.asarray(steps, np.int64).tolist())
        return to_rfc3339(self.to_timestamps(steps))

    def step_at_or_before(self, moment: datetime | int) -> int:
        """The last step whose timestamp is not after `moment`: an aware datetime, a naive local one, or an integer of a `step` grid."""
        us = self._to_moment(moment)
        step = int(self.to_steps(np.array([us]))[0][0])
        return step - 1 if self._freq.kind == "end" and self._at(step) > us else step

    def step_at_or_after(self, moment: datetime | int) -> int:
        """The first step whose timestamp is not before `moment` (as for `step_at_or_before`)."""
        step = self.step_at_or_before(moment)
        return step if self._freq.kind == "step" or self._at(step) >= self._to_moment(moment) else step + 1

    def nearest(self, timestamps: NDArray[Any]) -> Moments:
        """The grid point nearest to each timestamp."""
        utc = to_us(timestamps)
        around = self.to_steps(utc)[0][:, None] + np.array([-1, 0, 1])
        points = to_us(self.to_timestamps(around))
        nearest: Ints = points[np.arange(len(utc)), np.abs(points - utc[:, None]).argmin(1)]
        return nearest.view("datetime64[us]")

    @property
    def _freq(self) -> Freq:
        return parse_freq(self.freq)

    @property
    def _zone(self) -> Zone:
        return load_zone(self.time_zone)

    def _at(self, step: int) -> int:
        return int(to_us(self.to_timestamps(np.array([step])))[0])

    def _to_moment(self, moment: datetime | int) -> int:
        is_step = self._freq.kind == "step"
        if isinstance(moment, int) is not is_step:
            expected = "an integer: the dataset's freq is step" if is_step else "a timestamp, as RFC 3339 writes it"
            raise InvalidRequest(f"expected {expected}, found {moment!s}")
        if isinstance(moment, int):
            return max(-MAX_STEP, min(MAX_STEP, moment))
        if moment.tzinfo is None:
            wall = (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
            return int(self._zone.to_utc(np.array([wall]))[0][0])
        return (moment - EPOCH) // timedelta(microseconds=1)

    def _period(self, local: Ints) -> Ints:
        """The step of the period in which each wall time (less the phase) lies."""
        freq, days = self._freq, local // DAY_US
        if freq.kind in ("D", "W"):
            return (days - freq.anchor) // freq.size
        dates = days.view("datetime64[D]")
        if freq.kind == "B":
            return np.busday_count(np.datetime64(0, "D"), np.busday_offset(dates, 0, roll="backward"))
        months = dates.astype("datetime64[M]").view(np.int64) - freq.anchor
        return months // freq.size if freq.kind == "start" else -(-months // freq.size)

    def _wall(self, steps: Ints) -> Ints:
        """The wall time of each step, in microseconds since 1970 on the wall."""
        freq = self._freq
        if freq.kind in ("D", "W"):
            days = steps * freq.size + freq.anchor
        elif freq.kind == "B":
            days = np.busday_offset(np.datetime64(0, "D"), steps).view(np.int64)
        else:
            months = steps * freq.size + freq.anchor + (freq.kind == "end")
            days = months.view("datetime64[M]").astype("datetime64[D]").view(np.int64) - (freq.kind == "end")
        return days * DAY_US + self.phase_us


def to_us(timestamps: NDArray[Any]) -> Ints:
    """int64 microseconds of datetime64 of any unit; integers pass."""
    if timestamps.dtype.kind == "M":
        return timestamps.astype("datetime64[us]").view(np.int64)
    return timestamps.astype(np.int64, copy=False)


def to_rfc3339(timestamps: Moments) -> list[str]:
    """Text with Z; fractions of a second only if one has them."""
    whole = not (to_us(timestamps) % SECOND_US).any()
    return [text + "Z" for text in np.datetime_as_string(timestamps, unit="s" if whole else "us").tolist()]


def fit(freq: str, timestamps: NDArray[Any], time_zone: str) -> Grid:
    """The grid of this freq with the commonest phase among the timestamps (the smallest of several): those off it are to be refused."""
    parsed, utc = parse_freq(freq), to_us(timestamps)
    if parsed.kind == "step":
        return Grid(parsed.text, 0, time_zone)
    if parsed.kind == "lattice":
        phases = utc % parsed.size
    else:
        local = load_zone(time_zone).to_local(utc)
        phases = local % DAY_US
        if parsed.kind == "start":
            months = local.view("datetime64[us]").astype("datetime64[M]").astype("datetime64[us]").view(np.int64)
            phases = np.where(local - months < MAX_PHASE_DAYS * DAY_US, local - months, phases)
    found, counts = _count(phases)
    return Grid(parsed.text, int(found[counts.argmax()]), time_zone)


def _count(values: Ints) -> tuple[Ints, Ints]:
    """(sorted distinct values, how often each occurs): by sorting, ten times as fast as numpy's hashing `unique`."""
    if (values == values[0]).all():
        return values[:1], np.array([len(values)])
    ordered = np.sort(values)
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    return ordered[starts], np.diff(starts, append=len(ordered))


def _list_distinct(values: Ints) -> Ints:
    """Sorted. Those of many series are mostly the same ones again: they are marked on the grid on which the first of them lie, which takes
    a quarter of the time of sorting, where all lie on it and it is not much longer than they are many."""
    if not len(values):
        return values
    offsets = values - values.min()
    spacing = int(np.gcd.reduce(offsets[:GLANCED]))
    if spacing and int(offsets.max()) // spacing < WIDEST_GRID * len(values):
        steps = offsets // spacing
        if (steps * spacing == offsets).all():
            marked = np.zeros(int(steps.max()) + 1, np.bool_)
            marked[steps] = True
            return np.asarray(np.flatnonzero(marked) * spacing + values.min(), dtype=np.int64)
    return _count(values)[0]


def infer(timestamps: NDArray[Any], time_zone: str) -> Grid:
    """The coarsest grid on which all timestamps lie. Raises FreqUndetermined: fewer than two distinct ones, or finer than a second."""
    distinct = _list_distinct(to_us(timestamps))
    cure = "PUT the dataset with a freq first"
    if len(distinct) < 2:
        raise FreqUndetermined(f"a freq needs two distinct timestamps, found {len(distinct)}; {cure}", found=len(distinct))
    for freq in _suggest(load_zone(time_zone).to_local(distinct)):
        grid = fit(freq, distinct, time_zone)
        if grid.to_steps(distinct)[1].all():
            return grid
    apart = int(np.gcd.reduce(np.diff(distinct)))
    if apart % SECOND_US:
        raise FreqUndetermined(
            f"the timestamps lie on no grid of whole seconds (they share a spacing of {apart} microseconds), and the finest freq is "
            f"'s'; round them, or {cure} and an aggregate",
            spacing_us=apart,
        )
    return fit(_lattice(apart if apart <= MAX_MULTIPLE_US else int(np.gcd(apart, DAY_US))).text, distinct, time_zone)


def _suggest(local: Ints) -> Iterator[str]:
    """The freqs of the local calendar that sorted wall times may have, coarsest first."""
    days = local // DAY_US
    if (np.diff(days) == 0).any():
        return
    dates = days.view("datetime64[D]")
    months = dates.astype("datetime64[M]").view(np.int64)
    side = "E" if ((dates + 1).astype("datetime64[M]").view(np.int64) > months).all() else "S"
    for size in (12, 3, 1):
        anchors = months % size
        if (anchors == anchors[0]).all() and (size > 1 or (np.diff(months) > 0).all()):
            yield _period(size, side, int(anchors[0])).text
    weekdays = (days + EPOCH_WEEKDAY) % 7
    if (weekdays == weekdays[0]).all():
        yield f"W-{WEEKDAYS[int(weekdays[0])]}"
    from_friday_to_monday = (weekdays[:-1] == 4) & (np.diff(days) == 3)
    if (weekdays < 5).all() and from_friday_to_monday.any():
        yield "B"
    yield "D"
