"""How a process loads its code: without looking for garbage meanwhile. Standard library only."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def load_quietly() -> Iterator[None]:
    """What is imported stays for as long as the process lives: to go through it again and again is a sixth of a part's start.

    Nor is it looked through afterwards.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
