"""The API process: uvicorn on an address, or on a socket that the supervisor has opened."""

import ctypes
import gc
import os
import signal
import socket
from types import FrameType

import uvicorn

from app.connections import make_protocol
from app.lifeline import end_with_parent
from app.loading import load_quietly
from app.main import create_app
from app.settings import Settings
from app.telemetry import configure_logging, log
from app.tracing import configure_tracing

COLLECTED_FROM = 10_000
"""New objects: a request makes some hundreds, hardly one of them in a circle."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""As in glibc's malloc.h."""
KEPT_BYTES = 1 << 26
"""Of free memory, and the largest piece of it: a body of 40 MB finds the place of the one before."""
CLOSING_SECONDS = 2.0
"""Of the grace time: what is left to close database and threads, once no request is waited for any more."""


class Server(uvicorn.Server):
    """The first signal stops with grace, the second at once."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(1)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """What stands when the first request comes stays: the garbage collector need not go through it again and again."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECTED_FROM)


def share_free_memory() -> None:
    """One pool of memory for all threads of this process, of which `KEPT_BYTES` are kept when nobody needs them; to be called before
    there are threads.

    glibc gives each thread a pool of its own, and what one of them has free no other thread gets: of 150,000 damaged requests 14 MiB were
    left so, and it went on growing. Little is lost: the interpreter lets one thread at a time work, and so allocate. And it gives back
    what is large, and gets it again page by page, cleared: an eighth of the time that a CSV of 40 MB took. Other C libraries have
    nothing like it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


def run(settings: Settings, *, fd: int | None = None, lifeline: bool = False) -> None:
    """Serves until SIGTERM: no new connection is taken, requests under way are finished within the grace time."""
    share_free_memory()
    configure_logging(settings, "api")
    configure_tracing("api")
    if lifeline:
        end_with_parent()
    with load_quietly():  # the routes are many objects, too, and stay
        app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=make_protocol(settings),
        ws="none",  # there is no WebSocket here: what asks for one is a request like others
        timeout_graceful_shutdown=max(1, int(settings.grace_seconds - CLOSING_SECONDS)),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn raises it again when all is done, and the exit code would not be 0
    Server(config).run(sockets=[socket.socket(fileno=fd)] if fd is not None else None)
    log.info("api stopped")
