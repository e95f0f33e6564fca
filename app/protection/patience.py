"""How long a client that sends its body slowly is waited for. One that is slow before and after is app/connections.py's."""

import asyncio
import time
import types
from collections.abc import Generator
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import RequestTimeout
from app.settings import Settings


@types.coroutine
def go_on(asked: Any, waits_for: Any) -> Generator[Any, Any, Message]:
    """What a coroutine gives that has begun, and waits for something."""
    try:
        yield waits_for
    except BaseException:
        asked.close()
        raise
    message: Message = yield from asked
    return message


class Patience:
    """Ends a request whose client says nothing for too long, or takes too long over all of its body."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.silence_seconds = settings.max_silence_seconds
        self.body_seconds = settings.max_body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = time.monotonic() + self.body_seconds
        is_complete = False

        async def receive_soon() -> Message:
            nonlocal is_complete
            if is_complete:
                return await receive()  # what comes now is the end of the connection
            asked = receive()
            try:
                try:
                    waits_for = asked.send(None)  # type: ignore[attr-defined]
                except StopIteration as here:  # it was there already, as most are: a timer costs more than all of this
                    message: Message = here.value
                else:
                    async with asyncio.timeout(min(self.silence_seconds, deadline - time.monotonic())):
                        message = await go_on(asked, waits_for)
            except TimeoutError as error:
                raise RequestTimeout(
                    f"the body was not sent in time: at most {self.silence_seconds:g} s may pass without a byte of it, and {self.body_seconds:g} s "
                    "in all (ENGRAM_MAX_SILENCE_SECONDS, ENGRAM_MAX_BODY_SECONDS)"
                ) from error
            is_complete = not message.get("more_body", False)
            return message

        await self.app(scope, receive_soon, send)
