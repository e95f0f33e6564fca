"""Draws docs/pictures/forecast.svg: air passengers, the forecast as of the end of 1959, and what happened then.

    python docs/pictures/draw_forecast.py http://127.0.0.1:8000

Asks a running service for the model `air-1959`: the example learned with `"end": "1959-12-01T00:00:00Z"`, so that 1960 was not seen.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 860, 340, 46, 30, 28, 104
SHOWN = 60
TITLE = "Monthly air passengers (thousands): the forecast at the end of 1959, and what happened"
CUTOFF = "1959-12-01T00:00:00Z"
INK, QUIET, BAND = "#1f2933", "#8592a0", "#2f6fb0"


def main(url: str) -> None:
    with httpx.Client(base_url=url) as http:
        series = http.get("/v1/datasets/air/observations").raise_for_status().json()["series"][0]
        wanted = {"cutoff": CUTOFF, "quantile_levels": [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975]}
        answer = http.post("/v1/models/air-1959/forecasts", json=wanted).raise_for_status().json()
    forecast = answer["forecasts"][0]
    values = series["values"][-SHOWN:]
    begin = series["timestamps"][-SHOWN:].index(forecast["timestamps"][0])
    picture = draw(values, begin, forecast["median"], forecast["quantiles"], int(series["timestamps"][-SHOWN][:4]))
    target = Path(__file__).parent / "forecast.svg"
    target.write_text(picture)
    print(f"wrote {target}")  # noqa: T201


def draw(values: Sequence[float], begin: int, median: Sequence[float], quantiles: dict[str, list[float]], year: int) -> str:
    """The last years, the bands of 50, 80 and 95 % from `begin` on, the median, and what happened as dots."""
    highest = max(*values, *quantiles["0.975"]) * 1.04
    lowest = min(values) * 0.9

    def x(step: float) -> float:
        return LEFT + step * (WIDTH - LEFT - RIGHT) / (len(values) - 1)

    def y(value: float) -> float:
        return TOP + (highest - value) / (highest - lowest) * (HEIGHT - TOP - BOTTOM)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" fill="{INK}" font-weight="600">{TITLE}</text>',
    ]
    for tick in range(math.ceil(lowest / 100) * 100, int(highest), 100):
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#e4e8ec"/>',
            f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" fill="{QUIET}" text-anchor="end">{tick}</text>',
        ]
    parts += [
        f'<text x="{x(month):.1f}" y="{HEIGHT - 8}" fill="{QUIET}" text-anchor="middle">{year + month // 12}</text>'
        for month in range(0, len(values), 12)
    ]
    steps = range(begin, begin + len(median))
    for low, high, opacity in (("0.025", "0.975", 0.16), ("0.1", "0.9", 0.22), ("0.25", "0.75", 0.30)):
        edge = [*zip(steps, quantiles[high], strict=True), *reversed([*zip(steps, quantiles[low], strict=True)])]
        parts.append(f'<polygon points="{path(edge)}" fill="{BAND}" fill-opacity="{opacity}"/>')
    history = [*enumerate(values[:begin])]
    parts.append(f'<polyline points="{path(history)}" fill="none" stroke="{INK}" stroke-width="1.6"/>')
    line = [(begin - 1, values[begin - 1]), *zip(steps, median, strict=True)]
    parts.append(f'<polyline points="{path(line)}" fill="none" stroke="{BAND}" stroke-width="2.2"/>')
    parts += [
        f'<circle cx="{x(step):.1f}" cy="{y(values[step]):.1f}" r="2.6" fill="{INK}"/>' for step in range(begin, len(values))
    ]
    edge_x = WIDTH - RIGHT + 12
    legend = (
        (INK, "●", "observed", 1.0),
        (BAND, "━", "median", 1.0),
        (BAND, "▆", "50 %", 0.7),
        (BAND, "▆", "80 %", 0.45),
        (BAND, "▆", "95 %", 0.2),
    )
    for row, (colour, mark, text, opacity) in enumerate(legend):
        y_row = TOP + 60 + row * 18
        parts += [
            f'<text x="{edge_x}" y="{y_row}" fill="{colour}" fill-opacity="{opacity}">{mark}</text>',
            f'<text x="{edge_x + 18}" y="{y_row}" fill="{INK}">{text}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    main(*sys.argv[1:])
