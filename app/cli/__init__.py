"""The command line: one module for each group of commands, registered here and nowhere else.

A module of commands imports at its top only typer and what the standard library has; the rest inside the function that needs it,
so that `engram --help` and shell completion answer at once.
"""

import sys
from typing import Annotated

import typer

from app import __version__
from app.cli import alive, audit, backup, data, doctor, erase, export, keys, learn, lists, parts, predict, sbom
from app.cli.failure import Failure
from app.errors import EngramError

MAX_PLACES = 6
"""So many of the places that a problem names are told; the first stands in its sentence."""

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Engram learns time series with LSTM networks and forecasts them.",
)
for group in (parts, alive, backup, data, learn, predict, lists, doctor, audit, erase, export, sbom):
    cli.add_typer(group.commands)
cli.add_typer(keys.keys, name="keys")
cli.add_typer(keys.workspaces, name="workspaces")


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 usage."""
    try:
        cli()
    except (EngramError, Failure) as error:
        print(f"engram: {error.detail}", file=sys.stderr)
        for place in error.problem.get("errors", [])[1:MAX_PLACES] if isinstance(error, Failure) else ():
            where = place.get("pointer") or ", ".join(f"{name} {place[name]}" for name in ("row", "column") if name in place)
            print(f"        {where}: {place['detail']}", file=sys.stderr)
        sys.exit(1)


@cli.callback(invoke_without_command=True)
def show_version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"engram {__version__}")
        raise typer.Exit
