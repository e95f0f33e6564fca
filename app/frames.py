"""polars, loaded when it is first used: an API process to which nobody sends tables starts sooner and stays 35 MB smaller.

Where annotations name its types, `from __future__ import annotations` keeps them from being looked up.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl
else:
    from importlib import import_module

    class _Polars:
        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("polars"), name)  # which threads may do at once

    pl = _Polars()

__all__ = ["pl"]
