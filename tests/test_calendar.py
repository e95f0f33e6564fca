"""A timestamp and its step are the same thing said twice, on every freq, in every zone."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import calendar
from app.calendar import DAY_US, Grid, fit, infer, parse_freq, season_lengths, to_rfc3339, to_us
from app.errors import FreqUndetermined, InvalidRequest
from app.zones import load_zone, localize

ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "America/Sao_Paulo", "Australia/Lord_Howe"]
LATTICES = ["s", "10s", "min", "15min", "90min", "h", "6h", "24h"]
CALENDARS = ["D", "B", "W-MON", "W-SUN", "MS", "ME", "QS", "QS-FEB", "QE", "QE-OCT", "YS", "YS-APR", "YE", "YE-FEB"]


def moments(*texts: str) -> np.ndarray:
    return np.array(texts, "datetime64[us]")


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    freq = draw(st.sampled_from(LATTICES + CALENDARS))
    parsed = parse_freq(freq)
    most = parsed.size if parsed.kind == "lattice" else 28 * DAY_US if parsed.kind == "start" else DAY_US
    phase = draw(st.sampled_from([0, 450_000_000, 7 * 3_600_000_000]) | st.integers(0, most - 1)) % most
    return Grid(freq, phase, draw(st.sampled_from(ZONES)))


@given(grids(), st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=50))
def test_steps_become_timestamps_and_come_back(grid: Grid, seconds: list[int]) -> None:
    last = to_us(moments("2261-12-31"))[0] // 10**6
    steps, _ = grid.to_steps(np.array([second % last for second in seconds]) * 10**6)
    timestamps = grid.to_timestamps(steps)
    again, on_grid = grid.to_steps(timestamps)
    assert on_grid.all()
    np.testing.assert_array_equal(again, steps)
    assert (to_us(grid.to_timestamps(steps + 1)) > to_us(timestamps)).all()


@given(grids(), st.integers(-(10**9), 10**10))
def test_the_step_before_and_the_step_after_enclose_a_moment(grid: Grid, second: int) -> None:
    moment = datetime.fromtimestamp(second % (9 * 10**9), UTC)
    before, after = grid.step_at_or_before(moment), grid.step_at_or_after(moment)
    low, high = to_us(grid.to_timestamps(np.array([before, after])))
    us = int(moment.timestamp()) * 10**6
    assert low <= us <= high
    assert after - before == (0 if low == us else 1)
    nearest = to_us(grid.nearest(np.array([us])))[0]
    assert abs(nearest - us) == min(us - low, high - us)


@given(grids(), st.integers(0, 100_000), st.lists(st.integers(1, 5), min_size=3, max_size=40))
def test_every_grid_is_fitted_from_its_own_points(grid: Grid, first: int, apart: list[int]) -> None:
    steps = first % 1000 + np.cumsum([0, *apart])
    timestamps = grid.to_timestamps(steps)
    assert fit(grid.freq, timestamps, grid.time_zone).to_steps(timestamps)[1].all()


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("freq", ["h", "15min", "D", "B", "W-WED", "MS", "ME", "QS-FEB", "QE", "YS-APR", "YE"])
def test_a_regular_series_tells_its_freq(freq: str, zone: str) -> None:
    phase = 0 if parse_freq(freq).kind == "lattice" else 6 * 3_600_000_000
    grid = Grid(freq, phase, zone)
    assert infer(grid.to_timestamps(np.arange(200, 230)), zone) == grid


@pytest.mark.parametrize(
    ("timestamps", "freq", "phase_us"),
    [
        (("2024-01-15T06", "2024-02-15T06", "2024-04-15T06"), "MS", 14 * DAY_US + DAY_US // 4),
        (("2024-01-31", "2024-02-29"), "ME", 0),
        (("2024-01-30", "2024-02-29"), "D", 0),  # a 30th that February does not have is no monthly grid
        (("2024-01-05", "2024-01-08"), "B", 0),
        (("2024-01-04", "2024-01-05"), "D", 0),  # no weekend was jumped over
        (("2024-01-05", "2024-01-06", "2024-01-08"), "D", 0),
        (("2024-01-01T00:07", "2024-01-01T00:22", "2024-01-01T01:07"), "15min", 7 * 60 * 10**6),
        (("1970-01-01T00:00:05", "1970-01-01T00:00:12"), "7s", 5 * 10**6),
        (("2024-01-01", "2024-01-15"), "W-MON", 0),
        (("2024-06-30", "2026-06-30"), "YE-JUN", 0),
    ],
)
def test_the_coarsest_freq_is_inferred(timestamps: tuple[str, ...], freq: str, phase_us: int) -> None:
    grid = infer(moments(*timestamps), "UTC")
    assert grid == Grid(freq, phase_us, "UTC")
    assert grid.to_steps(moments(*timestamps))[1].all()


def test_one_point_and_fractions_of_a_second_tell_no_freq() -> None:
    with pytest.raises(FreqUndetermined, match="two distinct"):
        infer(moments("2024-01-01", "2024-01-01"), "UTC")
    with pytest.raises(FreqUndetermined, match="whole seconds"):
        infer(moments("2024-01-01T00:00:00", "2024-01-01T00:00:00.250"), "UTC")


def test_days_follow_the_local_calendar_through_both_changes_of_the_clock() -> None:
    berlin = Grid("D", 0, "Europe/Berlin")
    first = berlin.step_at_or_before(datetime(2024, 3, 30, tzinfo=UTC))
    assert to_rfc3339(berlin.to_timestamps(np.arange(first, first + 3))) == [
        "2024-03-29T23:00:00Z",
        "2024-03-30T23:00:00Z",
        "2024-03-31T22:00:00Z",
    ]


def test_six_hours_stay_utc_in_summer() -> None:
    grid = Grid("6h", 0, "Europe/Berlin")
    assert grid.to_steps(moments("2024-03-31T06:00", "2024-07-01T06:00", "2024-07-01T04:00"))[1].tolist() == [True, True, False]


def test_a_wall_time_that_a_day_lacks_moves_forward_and_stays_on_the_grid() -> None:
    half_past_two = Grid("D", 150 * 60 * 10**6, "Europe/Berlin")
    step = half_past_two.step_at_or_before(datetime(2024, 3, 31, 12, tzinfo=UTC))
    assert half_past_two.to_labels(np.array([step])) == ["2024-03-31T01:30:00Z"]  # 03:30 in Berlin
    assert half_past_two.to_steps(moments("2024-03-31T01:30"))[1].all()


def test_a_wall_time_shown_twice_is_first_summer_then_standard_time_within_a_series() -> None:
    local = to_us(moments("2024-10-27T02:00", "2024-10-27T02:00", "2024-10-27T02:30", "2024-10-27T02:00"))
    utc, absent = localize(local, "Europe/Berlin", np.array([0, 0, 0, 1]))
    assert to_rfc3339(utc.view("datetime64[us]")) == [
        "2024-10-27T00:00:00Z",
        "2024-10-27T01:00:00Z",
        "2024-10-27T00:30:00Z",
        "2024-10-27T00:00:00Z",
    ]
    assert not absent.any()


def test_a_wall_time_that_does_not_exist_is_marked() -> None:
    local = to_us(moments("2024-03-31T01:59", "2024-03-31T02:00", "2024-03-31T02:59", "2024-03-31T03:00"))
    assert localize(local, "Europe/Berlin", np.zeros(4, np.int64))[1].tolist() == [False, True, True, False]


@given(st.integers(-(4 * 10**9), 9 * 10**9), st.sampled_from(ZONES))
def test_local_time_is_what_the_zone_says(second: int, zone: str) -> None:
    local = int(load_zone(zone).to_local(np.array([second * 10**6]))[0])
    wall = datetime.fromtimestamp(second, UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=UTC)
    assert local == int(wall.timestamp()) * 10**6


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("60min", "h"),
        ("3600s", "h"),
        ("1h", "h"),
        ("W", "W-SUN"),
        ("QS-APR", "QS"),
        ("QE-MAR", "QE"),
        ("YS-JAN", "YS"),
        ("QE-JAN", "QE-OCT"),
    ],
)
def test_freqs_have_one_spelling(text: str, canonical: str) -> None:
    assert parse_freq(text).text == canonical
    assert parse_freq(canonical).text == canonical


@pytest.mark.parametrize(
    "text", ["", "H", "0h", "-1h", "1.5h", "2D", "MS-JAN", "W-ABC", "QS-", "h\n", "1000000h", "monthly", "99999999999s"]
)
def test_what_is_not_on_the_list_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="freq"):
        parse_freq(text)


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "America", "Europe/Berlin\x00", "\ud800"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="time_zone"):
        Grid("D", 0, name).to_steps(moments("2024-01-01"))


@pytest.mark.parametrize(
    ("freq", "lengths"),
    [
        ("h", (24, 168)),
        ("15min", (96, 672)),
        ("24h", (7,)),
        ("7h", (24,)),
        ("D", (7,)),
        ("B", (5,)),
        ("W-MON", (52,)),
        ("MS", (12,)),
        ("QE-OCT", (4,)),
        ("YS", ()),
        ("step", ()),
        ("s", (60, 3600)),
    ],
)
def test_season_lengths(freq: str, lengths: tuple[int, ...]) -> None:
    assert season_lengths(freq) == lengths


def test_a_step_grid_takes_integers_and_no_timestamps() -> None:
    grid = Grid("step")
    assert grid.to_steps(np.array([3, 2**53 + 1]))[1].tolist() == [True, False]
    assert grid.to_labels(np.array([3])) == [3]
    assert grid.step_at_or_before(5) == 5
    with pytest.raises(InvalidRequest, match="integer"):
        grid.step_at_or_before(datetime(2024, 1, 1, tzinfo=UTC))
    with pytest.raises(InvalidRequest, match="timestamp"):
        Grid("h").step_at_or_before(5)


def test_a_naive_moment_is_local_to_the_grid() -> None:
    grid = Grid("D", 0, "Europe/Berlin")
    assert grid.to_labels(np.array([grid.step_at_or_before(datetime(2024, 7, 1))])) == ["2024-06-30T22:00:00Z"]  # noqa: DTZ001


@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=60),
    st.sampled_from([1, 7, 3600 * 10**6]),
    st.lists(st.integers(-(10**15), 10**15), max_size=3),
)
def test_distinct_timestamps_are_found_with_and_without_a_grid(steps, spacing, others):
    """On a grid, on it but for some late ones, and far apart."""
    values = np.array([*(np.array(steps) * spacing), *others], np.int64)
    np.testing.assert_array_equal(calendar._list_distinct(values), np.unique(values))
    late = np.concatenate([np.tile(values, calendar.GLANCED), values[:1] + 1])
    np.testing.assert_array_equal(calendar._list_distinct(late), np.unique(late))
