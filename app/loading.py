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
def leave_out(name: str) -> Iterator[None]:
    """Who imports this module meanwhile gets an empty one, and afterwards the real one. One that is loaded already stays."""
    if name in sys.modules:
        yield
        return
    finder = _Empty(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.modules.pop(name, None)


class _Empty(MetaPathFinder, Loader):
    """Finds the module of this name, and nothing in it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname == self._name else None

    def create_module(self, spec: ModuleSpec) -> None:
        """None: an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Leaves it as it is."""
