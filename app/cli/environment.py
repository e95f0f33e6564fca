"""Settings of a command: the environment's, overridden by what was said on the command line."""

import os
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from app.settings import Settings


def configure(**options: Any) -> "Settings":
    """What was said on the command line also holds in the parts that are started from here. A wrong setting is a usage error."""
    from pydantic import ValidationError

    from app.settings import Settings

    for name, value in options.items():
        if value is not None:
            os.environ[f"ENGRAM_{name.upper()}"] = str(value)
    try:
        return Settings()
    except ValidationError as error:
        for one in error.errors():
            name = "_".join(map(str, one["loc"])).upper()
            found = "" if name == "KEY_PEPPER" else f", found {one['input']!r}"  # a secret is not shown, a wrong one neither
            print(f"engram: ENGRAM_{name}: {one['msg']}{found}; see docs/settings.md", file=sys.stderr)
        raise typer.Exit(2) from error
