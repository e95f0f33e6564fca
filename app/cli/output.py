"""What commands print: JSON for programs, aligned columns for people. Results go to stdout, everything else to stderr."""

import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

GAP = "  "
FRACTION = re.compile(r"(?<=T\d\d:\d\d:\d\d)\.\d+(?=Z$)")
"""Of a second, which no person wants to read."""


def print_json(value: Any) -> None:
    """One line, UTF-8, the names of the API's own fields."""
    print(json.dumps(value, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], more: bool = False) -> None:
    """Columns padded to their widest cell, numbers to the right: readable, and easily cut by other programs."""
    cells = [[title.removesuffix("_at").upper() for title in header], *([show(cell) for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(header))]
    is_number = [
        bool(rows) and all(isinstance(row[index], int | float) or row[index] is None for row in rows)
        for index in range(len(header))
    ]
    for row in cells:
        columns = [
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, is_number, strict=True)
        ]
        print(GAP.join(columns).rstrip())
    if more:
        say("there are more: --limit shows them")


def print_fields(fields: dict[str, Any]) -> None:
    """One thing, a field a line; what a field holds in turn is indented."""
    _print_fields(fields, 0)


def _print_fields(fields: dict[str, Any], depth: int) -> None:
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            print(f"{GAP * depth}{name}")
            _print_fields(value, depth + 1)
        else:
            print(f"{GAP * depth}{name.ljust(width)}  {show(value)}".rstrip())


def show(value: Any) -> str:
    """A cell. Control characters, which a terminal would obey, become spaces."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}" if abs(value) < 1e5 else f"{value:.0f}"
    if isinstance(value, list):
        return ", ".join(map(show, value)) or "-"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else FRACTION.sub("", str(value))
    return "".join(character if character.isprintable() else " " for character in text)


def say(text: str) -> None:
    """Something for the person at the terminal, who may have sent stdout elsewhere."""
    print(text, file=sys.stderr, flush=True)


def make_bar(*columns: "str | ProgressColumn") -> "Progress":
    """A progress bar on stderr; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
