"""How many requests one API process has at work at once: one more is told to come back, instead of making all others wait for it.

What may wait is then bounded, and with it memory and the longest answer, however many come.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Overloaded

RETRY_SECONDS = 1
NEVER_REFUSED = ("/health/live", "/health/ready", "/metrics")
"""Whoever watches the service has to be heard when it has most to do."""
STREAMS = "/events"
"""A stream of events waits most of its time, and lasts as long as a training."""


class Admission:
    """Refuses with 503 what comes while `most` requests are at work in this process. One that only waits for its refusal calls `leave`."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app = app
        self.most = most
        self.at_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in NEVER_REFUSED or scope["path"].endswith(STREAMS):
            await self.app(scope, receive, send)
            return
        if self.at_work >= self.most:
            raise Overloaded(
                f"{self.most} requests are at work in this process, which is all that it takes on at once; send this one again in "
                f"{RETRY_SECONDS} s",
                retry_after=RETRY_SECONDS,
            )
        self.at_work += 1
        is_here = True

        def leave() -> None:
            nonlocal is_here
            self.at_work -= is_here
            is_here = False

        scope["leave"] = leave
        try:
            await self.app(scope, receive, send)
        finally:
            leave()
