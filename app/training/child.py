"""The process that learns: the workshop alone. Arrays in, progress and artifact out through one pipe; no database, no settings.

Started from a forkserver that has imported torch; it ends when the pipe closes, so that nothing runs on without its supervisor.
"""

import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from app.errors import EngramError, OutOfMemory

OOM_SCORE = "500"


def run(connection: Connection, max_bytes: int) -> None:
    """Learns within `max_bytes` of memory beyond what the process begins with (0: no limit).

    Receives (series, request, champion's artifact or None, state to go on from or None, seconds between checkpoints); sends
    ("progress" | "state", ...)* and one of ("done" | "failed" | "crashed", ...). Any message later asks for its state at once.

    What is sent is plain: the supervisor could not unpickle the workshop's classes without importing torch.
    """
    # Here, not above: the supervisor imports this module to name `run`. The forkserver has it all loaded already.
    from app.lstm import Forecaster, Progress, learn
    from app.lstm.device import choose_device

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; only the supervisor decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _be_killed_first()
    series, request, champion, state, checkpoint_seconds = connection.recv()
    asked = threading.Event()
    threading.Thread(target=_listen, args=(connection, asked), daemon=True).start()
    started = kept_at = time.monotonic()

    def report(progress: Progress) -> None:
        connection.send(("progress", {**asdict(progress), "seconds": round(time.monotonic() - started, 3)}))

    def offer(done: int, capture: Callable[[], bytes]) -> None:
        nonlocal kept_at
        if asked.is_set() or time.monotonic() - kept_at >= checkpoint_seconds:
            asked.clear()
            connection.send(("state", {"step": done, "data": capture()}))
            kept_at = time.monotonic()

    try:
        if max_bytes and choose_device(request.device).type == "cpu":
            _limit_memory(max_bytes)  # CUDA reserves addresses by the terabyte, which says nothing of what it uses
        learned = learn(
            series,
            request,
            on_progress=report,
            clock=time.process_time,
            champion=Forecaster.from_bytes(champion) if champion is not None else None,
            offer=offer,
            state=state,
        )
    except EngramError as error:
        connection.send(("failed", error.to_problem()))
    except MemoryError as error:
        connection.send(("failed", _no_memory(error)))
    except RuntimeError as error:
        # torch says so in words only: the CPU's allocator raises a plain RuntimeError, CUDA's a subclass of it
        memory = any(words in str(error).lower() for words in ("out of memory", "can't allocate memory", "bad_alloc"))
        connection.send(("failed", _no_memory(error)) if memory else ("crashed", traceback.format_exc()))
    except Exception:  # noqa: BLE001 - the supervisor turns it into the training's problem and logs it
        connection.send(("crashed", traceback.format_exc()))
    else:
        backtest = None if learned.backtest is None else vars(learned.backtest)
        connection.send(("done", {**vars(learned), "backtest": backtest}))


def _limit_memory(max_bytes: int) -> None:
    """Of addresses: an allocation beyond it fails as if the machine had no more, here and not in whoever else needs memory then."""
    with suppress(OSError, ValueError):
        begun = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (begun + max_bytes, begun + max_bytes))


def _listen(connection: Connection, asked: threading.Event) -> None:
    """Whatever the supervisor says, it wants the state; if it says no more, it is gone, and nothing may run on without it."""
    try:
        while True:
            connection.recv()
            asked.set()
    except (EOFError, OSError):
        os._exit(1)


def _be_killed_first() -> None:
    """Where memory runs short the kernel is to take this process, not the worker that watches over it."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)


def _no_memory(error: Exception) -> dict[str, Any]:
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return OutOfMemory(
        f"the training needed more memory than there is, with {peak_bytes / 2**20:.0f} MiB in use at its peak: {error}; "
        "train on fewer series, with a smaller batch_size or hidden_size, or on a larger machine",
        peak_bytes=peak_bytes,
    ).to_problem()
