"""How a part that `engram serve` started ends with it, even if that is killed: its standard input is a pipe that then closes."""

import os
import signal
import threading

STDIN = 0


def end_with_parent() -> None:
    """Sends this process SIGTERM once the parent is gone."""

    def watch() -> None:
        while os.read(STDIN, 1024):  # not sys.stdin: its lock, held here, would stop the interpreter from ending
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
