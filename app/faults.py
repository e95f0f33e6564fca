"""Fault points: places at which tests and benchmarks have this process killed, or an error raised, in the middle of what must not be halved.

`ENGRAM_FAULTS="claim.taken=0.05,finish.registered=0.1"` kills the process with SIGKILL at that share of the times it comes there;
tests in the process `arm` a point with a function of theirs. Unset, which it is in every installation, a point costs one look-up.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POINTS = (
    "claim.taken",  # in the transaction of a claim, behind its UPDATE
    "claim.committed",  # the training is ours, and nothing of it is begun
    "beat.written",  # in the transaction of a heartbeat, with progress and state
    "write.merged",  # in the transaction of a write: chunks are stored, their series' rows are not
    "write.flushed",  # all is written, nothing is committed
    "write.committed",  # on disk, and the client does not know it
    "request.flushed",  # a training and its key are written, not committed
    "request.committed",  # the training stands, its hint is not sent
    "finish.registered",  # in the transaction of a finish: version and artifact are written, the training's end is not
    "finish.flushed",
    "finish.committed",
)
_armed: dict[str, Callable[[], None]] = {}


def reach(point: str) -> None:
    """Says that the process is here now."""
    if _armed and (act := _armed.get(point)) is not None:
        act()


@contextmanager
def arm(point: str, act: Callable[[], None]) -> Iterator[None]:
    """Has `act` called whenever this process reaches the point, until the context ends."""
    if point not in POINTS:
        raise ValueError(f"expected one of {', '.join(POINTS)}, found {point!r}")
    _armed[point] = act
    try:
        yield
    finally:
        del _armed[point]


def _arm_from_environment() -> None:
    for part in filter(None, os.environ.get("ENGRAM_FAULTS", "").split(",")):
        point, _, share = part.partition("=")
        if point not in POINTS:
            raise ValueError(f"ENGRAM_FAULTS: expected one of {', '.join(POINTS)}, found {point!r}")
        _armed[point] = _kill_at(float(share))


def _kill_at(share: float) -> Callable[[], None]:
    chance = random.Random(os.urandom(8))  # noqa: S311 - chance, no secret

    def act() -> None:
        if chance.random() < share:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


_arm_from_environment()
