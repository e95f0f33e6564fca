"""The command line: one module for each group of commands, registered here and nowhere else.

A module of commands imports at its top only typer and what the standard library has; the rest inside the function that needs it,
so that `engram --help` and shell completion answer at once.
"""

import sys
from typing import Annotated

import typer

from app import __version__
from app.cli import alive, keys, parts
from app.errors import EngramError

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Engram learns time series with LSTM networks and forecasts them.",
)
cli.add_typer(parts.commands)
cli.add_typer(alive.commands)
cli.add_typer(keys.keys, name="keys")
cli.add_typer(keys.workspaces, name="workspaces")


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 usage."""
    try:
        cli()
    except EngramError as error:
        print(f"engram: {error.detail}", file=sys.stderr)
        sys.exit(1)


@cli.callback(invoke_without_command=True)
def show_version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"engram {__version__}")
        raise typer.Exit
