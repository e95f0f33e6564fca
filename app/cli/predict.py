"""`engram forecast`: what comes next, as a table, as a chart, or as a file for other programs."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import typer

from app.cli.connection import DEFAULT_URL, AsJson, KeyFile, Local, Service, Url, connect
from app.cli.output import print_json, print_table, say

commands = typer.Typer()
LOW, HIGH = 0.1, 0.9
"""The band that tables and charts show, or the nearest to it among the learned levels."""
HISTORY = 3
"""A chart shows this many times the horizon of what was observed before."""
MAX_CHARTS = 10


@commands.command()
def forecast(
    model: Annotated[str, typer.Argument(help="The model that forecasts.", show_default=False)],
    series: Annotated[list[str] | None, typer.Option(help="A series; may be said again. Otherwise all of them.")] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="How many steps; otherwise as many as were learned.")] = None,
    cutoff: Annotated[str | None, typer.Option(help="As of this time: nothing after it is seen.")] = None,
    version: Annotated[str | None, typer.Option(help="A number or an alias; otherwise the one that serves.")] = None,
    form: Annotated[
        Literal["table", "chart", "csv", "json"], typer.Option("--format", help="csv and json have every quantile level.")
    ] = "table",
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Forecast the series of a model, each from its own last value, with the version that serves."""
    wanted: dict[str, Any] = {"series": series or None, "horizon": horizon, "cutoff": _read_step(cutoff), "version": version}
    if version is not None and version.isdecimal():
        wanted["version"] = int(version)
    path = f"/v1/models/{model}/forecasts"
    with connect(url, key_file, local) as service:
        if as_json or form == "json":
            pages = list(_read_pages(service, path, wanted))
            print_json({**pages[0], "forecasts": [one for page in pages for one in page["forecasts"]], "next_cursor": None})
        elif form == "csv":
            with service.stream("POST", path, json=wanted, headers={"Accept": "text/csv"}) as answer:
                for part in answer.iter_bytes():
                    sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
        elif form == "chart":
            _print_charts(service, _read_pages(service, path, wanted), cutoff)
        else:
            _print_table(list(_read_pages(service, path, wanted)))


def _read_step(cutoff: str | None) -> int | str | None:
    """Where freq is step, a point in time is an integer."""
    return int(cutoff) if cutoff is not None and cutoff.removeprefix("-").isdecimal() else cutoff


def _read_pages(service: Service, path: str, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        params: dict[str, str] = {"cursor": cursor} if cursor else {}
        page: dict[str, Any] = service.call("POST", path, json=wanted, params=params).json()
        yield page
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _choose_band(levels: list[float]) -> tuple[str, str]:
    """The learned levels nearest to LOW and HIGH, as the keys of `quantiles`."""
    return str(min(levels, key=lambda level: abs(level - LOW))), str(min(levels, key=lambda level: abs(level - HIGH)))


def _print_table(pages: list[dict[str, Any]]) -> None:
    low, high = _choose_band(pages[0]["quantile_levels"])
    rows = [
        (one["series"], timestamp, lower, median, upper)
        for page in pages
        for one in page["forecasts"]
        for timestamp, lower, median, upper in zip(
            one["timestamps"], one["quantiles"][low], one["median"], one["quantiles"][high], strict=True
        )
    ]
    print_table(("series", "timestamp", f"q{low}", "median", f"q{high}"), rows)
    _warn(pages)


def _print_charts(service: Service, pages: Iterator[dict[str, Any]], cutoff: str | None) -> None:
    from app.cli.chart import draw

    shown = 0
    for page in pages:
        low, high = _choose_band(page["quantile_levels"])
        for one in page["forecasts"]:
            if shown == MAX_CHARTS:
                say(f"{MAX_CHARTS} series are drawn; --series names others")
                return
            shown += 1
            labels, values = _read_history(service, page, one)
            title = f"{one['series']}   {page['model']} version {page['version']}, {page['horizon']} steps of {page['freq']}"
            print(
                draw(title, (labels, values), one["timestamps"], one["median"], (one["quantiles"][low], one["quantiles"][high]))
            )
            print(f"  • observed   ━ median   ░ quantiles {low} to {high}\n")
        _warn([page])


def _read_history(service: Service, page: dict[str, Any], one: dict[str, Any]) -> tuple[list[Any], list[float | None]]:
    """What was observed up to the cutoff, over HISTORY times the forecast's span."""
    start = _before(one["cutoff"], one["timestamps"][-1])
    params = {"series": one["series"], "start": start, "end": one["cutoff"]}
    found = service.get(f"/v1/datasets/{page['dataset']}/observations", **params)["series"][0]
    return found["timestamps"], found["values"]


def _before(cutoff: int | str, last: int | str) -> int | str:
    from datetime import UTC, datetime

    if isinstance(cutoff, int) or isinstance(last, int):
        return int(cutoff) - HISTORY * (int(last) - int(cutoff))
    at, until = datetime.fromisoformat(cutoff), datetime.fromisoformat(last)
    try:
        return (at - HISTORY * (until - at)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return cutoff


def _warn(pages: list[dict[str, Any]]) -> None:
    for page in pages:
        for one in page["forecasts"]:
            for warning in one["warnings"]:
                say(f"warning: {one['series']}: {warning}")
