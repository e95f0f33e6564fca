"""How a process loads its code: without looking for garbage meanwhile, and without what it has no use for. Standard library only."""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

UNUSED_BY_PARTS = "rich"
"""structlog does without where it finds none, and never uses it here: a twentieth of a worker's start."""


@contextmanager
def load_quietly() -> Iterator[None]:
    """What is imported stays for as long as the process lives: to go through it again and again is a sixth of a part's start.

    Nor is it looked through afterwards.
    """
    gc.disable()
    try:
        with leave_out(UNUSED_BY_PARTS):
            yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def leave_out(*names: str) -> Iterator[None]:
    """Who imports these modules meanwhile gets empty ones, and afterwards the real ones. Those that are loaded already stay."""
    names = tuple(name for name in names if name not in sys.modules)
    finder = _Empty(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in names:
            sys.modules.pop(name, None)


class _Empty(MetaPathFinder, Loader):
    """Finds the modules of these names, and nothing in them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self._names else None

    def create_module(self, spec: ModuleSpec) -> None:
        """None: an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Leaves it as it is."""
