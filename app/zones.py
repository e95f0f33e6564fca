"""Time zones as tables, so that wall times and UTC turn into each other by the array. numpy and zoneinfo only."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidRequest

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SECOND_US = 1_000_000
FIRST_YEAR, LAST_YEAR = 1678, 2261
FIRST_US = int(np.datetime64(f"{FIRST_YEAR}-01-01", "us").astype(np.int64))
END_US = int(np.datetime64(f"{LAST_YEAR + 1}-01-01", "us").astype(np.int64))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Zone:
    """A time zone as a table: offset `offsets_us[k]` holds from `starts_us[k - 1]` (UTC, inclusive) up to `starts_us[k]`."""

    starts_us: Ints
    offsets_us: Ints

    def to_local(self, utc: Ints) -> Ints:
        """Wall times, as microseconds since 1970 on the wall."""
        if not len(self.starts_us):
            return utc + int(self.offsets_us[0])
        offsets: Ints = self.offsets_us[np.searchsorted(self.starts_us, utc, side="right")]
        return utc + offsets

    def to_utc(self, local: Ints, later: Bools | bool = False) -> tuple[Ints, Bools, Bools]:
        """(utc, is ambiguous, does not exist) of wall times. An ambiguous one is the earlier unless `later`; one that a change of
        the clock jumps over moves forward by the jump."""
        if not len(self.starts_us):
            nowhere = np.zeros(local.shape, bool)
            return local - self.offsets_us[0], nowhere, nowhere
        before, after = self.starts_us + self.offsets_us[:-1], self.starts_us + self.offsets_us[1:]
        first = np.searchsorted(np.maximum(before, after), local, side="right")
        second = np.searchsorted(np.minimum(before, after), local, side="right")
        earlier, later_utc = local - self.offsets_us[first], local - self.offsets_us[second]
        ambiguous, absent = (first != second) & (later_utc > earlier), (first != second) & (later_utc < earlier)
        return np.where(ambiguous & later, later_utc, earlier), ambiguous, absent


@lru_cache(maxsize=128)
def load_zone(name: str) -> Zone:
    """The zone called `name` (IANA). Raises InvalidRequest."""
    try:
        zone = ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        detail = f"expected a name of the IANA list (Europe/Berlin, UTC), found {name[:64]!r}"
        raise InvalidRequest(f"time_zone: {detail}", errors=[{"pointer": "#/time_zone", "detail": detail}]) from error

    def offset_at(second: int) -> int:
        offset = (EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()
        return int((offset or timedelta(0)).total_seconds())

    starts, offsets = [], [offset_at(FIRST_US // SECOND_US)]
    pace = 3 * 86_400  # no zone ever changed its clock and changed it back within three days
    for second in range(FIRST_US // SECOND_US, END_US // SECOND_US, pace):
        if offset_at(second + pace) == offsets[-1]:
            continue
        low, high = second, second + pace
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset_at(middle) == offsets[-1] else (low, middle)
        starts.append(high)
        offsets.append(offset_at(high))
    return Zone(np.array(starts, np.int64) * SECOND_US, np.array(offsets, np.int64) * SECOND_US)


def localize(local: Ints, time_zone: str, series: Ints) -> tuple[Ints, Bools]:
    """(utc, does not exist) of wall times in order of appearance. Of a time that the clock shows twice, the first of a series'
    rows is the earlier (summer time), the second the later; alone it is the earlier."""
    zone = load_zone(time_zone)
    utc, ambiguous, absent = zone.to_utc(local)
    if ambiguous.any():
        rows = np.flatnonzero(ambiguous)
        order = np.lexsort((rows, local[rows], series[rows]))
        rows = rows[order]
        again = np.zeros(len(rows), bool)
        again[1:] = (local[rows][1:] == local[rows][:-1]) & (series[rows][1:] == series[rows][:-1])
        later = np.zeros(len(local), bool)
        later[rows[again]] = True
        utc = zone.to_utc(local, later)[0]
    return utc, absent
