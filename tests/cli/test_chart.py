"""Forecasts drawn with characters: everything lies where its value says."""

import pytest

from app.cli.chart import HEIGHT, MEDIAN, OBSERVED, SHADE, draw

DAYS = [f"2024-01-{day:02d}T00:00:00Z" for day in range(1, 31)]


def draw_rows(values: list[float | None], median: list[float], low: list[float], high: list[float]) -> list[str]:
    text = draw(
        "air", (DAYS[: len(values)], values), DAYS[len(values) : len(values) + len(median)], median, (low, high), width=70
    )
    lines = text.splitlines()
    assert lines[0] == "air"
    assert len(lines) == HEIGHT + 2
    return [line.split("┤", 1)[1].ljust(70) for line in lines[1:-1]]


def test_a_rising_history_and_a_band_that_widens() -> None:
    history: list[float | None] = [float(day) for day in range(20)]
    rows = draw_rows(history, [20.0, 21.0, 22.0], [19.0, 18.0, 17.0], [21.0, 24.0, 27.0])
    columns = ["".join(row[column] for row in rows) for column in range(70)]
    heights = [column.index(OBSERVED) for column in columns if OBSERVED in column]
    assert len(heights) == 20
    assert heights == sorted(heights, reverse=True), "what rises stands higher, further to the right"
    shades = [column.count(SHADE) for column in columns if SHADE in column]
    assert shades[-1] > shades[0]
    assert all(column.count(MEDIAN) == 1 for column in columns if SHADE in column)


@pytest.mark.parametrize("values", [[None, None], [5.0, 5.0], []])
def test_missing_constant_and_no_history(values: list[float | None]) -> None:
    rows = draw_rows(values, [5.0], [5.0], [5.0])
    assert sum(row.count(OBSERVED) for row in rows) == sum(value is not None for value in values)
    assert any(MEDIAN in row for row in rows)


def test_the_axis_names_where_the_forecast_begins() -> None:
    last = draw("air", (DAYS[:20], [1.0] * 20), DAYS[20:25], [1.0] * 5, ([0.5] * 5, [2.0] * 5), width=80).splitlines()[-1]
    assert last.split() == ["2024-01-01", "2024-01-21"], "the end has no room beside it"
    month = [f"2024-{number:02d}-01T00:00:00Z" for number in range(1, 13)]
    wide = draw("air", (month[:4], [1.0] * 4), month[4:], [1.0] * 8, ([0.5] * 8, [2.0] * 8), width=80).splitlines()[-1]
    assert wide.split() == ["2024-01-01", "2024-05-01", "2024-12-01"]
