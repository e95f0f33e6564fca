"""How a part ends: on a signal, at once on the second, and with `engram serve` if that started it, even if that is killed."""

import os
import signal
import threading
from collections.abc import Callable

STDIN = 0


def on_stop(stop: Callable[[], None]) -> None:
    """SIGTERM and Ctrl-C: the first calls `stop`, which is to let the process end by itself, the second ends it at once."""

    def hear(*_: object) -> None:
        end_at_once_on_signal()
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hear)


def end_at_once_on_signal() -> None:
    """From here on: the stop is under way, and whoever asks again does not want to wait for it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(1))


def end_with_parent() -> None:
    """Sends this process SIGTERM once the parent is gone: its standard input is a pipe that then closes."""

    def watch() -> None:
        while os.read(STDIN, 1024):  # not sys.stdin: its lock, held here, would stop the interpreter from ending
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
