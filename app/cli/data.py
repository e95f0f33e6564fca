"""`engram import`: a file of any size into a dataset."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from app.cli.connection import DEFAULT_URL, AsJson, KeyFile, Local, Url, connect

commands = typer.Typer()
File = Annotated[
    Path,
    typer.Argument(help="CSV, NDJSON, Parquet or Arrow, plain or packed with gzip or zstd; - reads stdin.", show_default=False),
]
Column = Annotated[str | None, typer.Option(help="Its name, where it is not one of the usual ones.", rich_help_panel="Columns")]
NEW = "The dataset, where it is new"


@commands.command("import")
def import_file(
    file: File,
    dataset: Annotated[str, typer.Option(help="Where the observations go; it is made if there is none.", show_default=False)],
    freq: Annotated[str | None, typer.Option(help="Such as h, 15min, D or MS; otherwise found.", rich_help_panel=NEW)] = None,
    time_zone: Annotated[str | None, typer.Option(help="Whose calendar its days follow.", rich_help_panel=NEW)] = None,
    aggregate: Annotated[
        Literal["mean", "sum", "min", "max", "last"] | None,
        typer.Option(help="How points off the grid are folded into their step.", rich_help_panel=NEW),
    ] = None,
    series_column: Column = None,
    timestamp_column: Column = None,
    value_column: Column = None,
    ignore_columns: Annotated[
        bool, typer.Option("--ignore-columns", help="Leave other columns unread.", rich_help_panel="Columns")
    ] = False,
    on_conflict: Annotated[
        Literal["replace", "keep", "error"], typer.Option(help="What becomes of a step that holds another value.")
    ] = "replace",
    batch_bytes: Annotated[int, typer.Option(min=64, help="About how much is sent in one request.")] = 8 * 2**20,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Send all of it, where an interrupted import would go on.")
    ] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Store the observations of a file, however large. The same command goes on where it was interrupted."""
    from app.cli.importing import Import, Wanted
    from app.cli.output import print_json
    from app.datasets.columns import ColumnOptions

    columns = ColumnOptions(series_column, timestamp_column, value_column, ignore_columns)
    kind = {name: value for name, value in (("freq", freq), ("time_zone", time_zone), ("aggregate", aggregate)) if value}
    with connect(url, key_file, local) as service:
        summary = Import(service, Wanted(file, dataset, kind, columns, on_conflict, batch_bytes, from_start)).run()
    if as_json:
        print_json(summary)
    else:
        print(describe(summary))


def describe(summary: dict[str, object]) -> str:
    """What was done, as a person would say it."""
    counts = ", ".join(f"{summary[name]:,} {name}" for name in ("inserted", "updated", "unchanged"))
    lines = [
        f"{summary['dataset']}: {summary['received']:,} observations received: {counts}; {summary['missing']:,} are missing values"
    ]
    if summary["freq"]:
        lines.append(f"freq {summary['freq']}, from {summary['first_timestamp']} to {summary['last_timestamp']}")
    warnings = summary["warnings"]
    if isinstance(warnings, list):
        lines += [f"warning: {warning}" for warning in warnings]
    return "\n".join(lines)
