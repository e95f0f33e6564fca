"""A forecast drawn with characters: what was observed as dots, the median as a line, the band between two quantiles as a shade."""

import shutil
from collections.abc import Sequence
from typing import Any

from app.cli.output import show

HEIGHT = 16
MAX_WIDTH, MIN_WIDTH = 110, 40
EMPTY, SHADE, OBSERVED, MEDIAN, EDGE = " ", "░", "•", "━", "┊"


def draw(
    title: str,
    history: tuple[Sequence[Any], Sequence[float | None]],
    timestamps: Sequence[Any],
    median: Sequence[float],
    band: tuple[Sequence[float], Sequence[float]],
    width: int | None = None,
) -> str:
    """The lines of the chart. `history` is (timestamps, values), None where missing; `band` has the lower and the upper quantile."""
    labels, values = history
    low, high = band
    seen = [value for value in values if value is not None]
    bottom, top = min([*seen, *low, *median]), max([*seen, *high, *median])
    if bottom == top:
        bottom, top = bottom - 1.0, top + 1.0
    scale = [show(top - (top - bottom) * row / (HEIGHT - 1)) for row in range(HEIGHT)]
    margin = max(map(len, scale))
    steps = len(values) + len(timestamps)
    columns = min(max((width or shutil.get_terminal_size().columns) - margin - 3, MIN_WIDTH), MAX_WIDTH)
    grid = [[EMPTY] * columns for _ in range(HEIGHT)]

    def column_of(step: int) -> int:
        return round(step * (columns - 1) / max(steps - 1, 1))

    def row_of(value: float) -> int:
        return round((top - value) * (HEIGHT - 1) / (top - bottom))

    border = max(column_of(len(values)) - 1, 0)
    for row in grid:
        row[border] = EDGE
    for column in range(border + 1, columns):
        at = _interpolate(column, border + 1, columns - 1, len(timestamps))
        lower, middle, upper = (_at(line, at) for line in (low, median, high))
        for row_number in range(row_of(upper), row_of(lower) + 1):
            grid[row_number][column] = SHADE
        grid[row_of(middle)][column] = MEDIAN
    for step, value in enumerate(values):
        if value is not None:
            grid[row_of(value)][column_of(step)] = OBSERVED
    lines = [f"{label.rjust(margin)} ┤{''.join(row)}".rstrip() for label, row in zip(scale, grid, strict=True)]
    first = labels[0] if labels else timestamps[0]
    return "\n".join(
        [show(title), *lines, " " * (margin + 2) + _write_axis(first, timestamps[0], timestamps[-1], border, columns)]
    )


def _interpolate(column: int, first: int, last: int, count: int) -> float:
    """Which of `count` steps lies at a column between `first` and `last`."""
    return (column - first) * (count - 1) / max(last - first, 1)


def _at(line: Sequence[float], at: float) -> float:
    index = min(int(at), len(line) - 1)
    after = line[min(index + 1, len(line) - 1)]
    return line[index] + (after - line[index]) * (at - index)


def _write_axis(first: Any, begin: Any, end: Any, border: int, columns: int) -> str:
    """The first and the last timestamp, and where the forecast begins, as far as there is room."""
    left, middle, right = (_shorten(label) for label in (first, begin, end))
    axis = left.ljust(max(border, len(left) + 2)) + middle
    return axis + right.rjust(columns - len(axis)) if len(axis) + len(right) + 2 <= columns else axis


def _shorten(label: Any) -> str:
    """Midnight needs no clock."""
    return str(label).removesuffix("T00:00:00Z").removesuffix(":00Z")
