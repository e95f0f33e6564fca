"""Settings of a command: the environment's, overridden by what was said on the command line."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.settings import Settings


def configure(**options: Any) -> "Settings":
    """What was said on the command line also holds in the parts that are started from here. A wrong setting is a usage error."""
    from app.settings import read_settings

    for name, value in options.items():
        if value is not None:
            os.environ[f"ENGRAM_{name.upper()}"] = str(value)
    return read_settings()
