"""One connection of a client, in a house with limits: how many there are, how large and how slow the head of a request may be, and
how long an answer may lie here because nobody takes it. Everything later than the head is app/middleware.py's and app/protection's.

What is refused here never becomes a request; it is answered and closed by hand.
"""

import asyncio
from typing import Any
from uuid import uuid4

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import EngramError, HeadTooLarge, RequestTimeout, TooManyConnections
from app.settings import Settings
from app.telemetry import log

ANSWER = (
    "HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n"
    "x-content-type-options: nosniff\r\nx-request-id: {request_id}\r\n{more}connection: close\r\n\r\n"
)


def make_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """What uvicorn makes of each connection, with the limits of `settings`."""

    class Limited(Connection):
        limits = settings

    return Limited


class Gathering:
    """A transport that sends the head of an answer and its body, which uvicorn writes one after the other, with one system call: what is
    written first waits for what is written next, at most until the end of this turn of the loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""
        self.is_closing = transport.is_closing  # asked often: not by way of __getattr__

    def write(self, data: bytes) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.writelines((held, data))  # a large body is not copied for it
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(HttpToolsProtocol):
    """uvicorn's own, with limits. `is_head` is while a request's head is under way: from the first moment on, and between two requests
    from the first byte of the next on (before it, uvicorn's keep-alive timeout counts)."""

    limits: Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_head = True
        self.head_bytes = 0
        self.timer: asyncio.TimerHandle | None = None
        self.silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Gathering(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > self.limits.max_connections:
            self._refuse(
                TooManyConnections("the service holds as many connections as it may; try again shortly", retry_after=5)
            )
            return
        self._begin_head()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.is_head and self.timer is not None and not self.transport.is_closing():
            self.head_bytes += len(data)
            if self.head_bytes > self.limits.max_head_bytes:
                self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self.is_head:
            self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self.limits.max_head_bytes:
            self._refuse_head()
            raise httptools.HttpParserError("the head is too large")
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.silence is None:
            self.silence = self.loop.call_later(self.limits.max_silence_seconds, self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.silence is not None:
            self.silence.cancel()
            self.silence = None

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():  # it was answered already: the head was too large
            super().send_400_response(msg)

    def _begin_head(self) -> None:
        self.is_head, self.head_bytes = True, 0
        self.timer = self.loop.call_later(self.limits.max_head_seconds, self._refuse_slow)

    def _end_head(self) -> None:
        self.is_head = False
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _refuse_slow(self) -> None:
        if not self.transport.is_closing():
            seconds = self.limits.max_head_seconds
            self._refuse(RequestTimeout(f"the head of the request was not sent within {seconds:g} s (ENGRAM_MAX_HEAD_SECONDS)"))

    def _refuse_head(self) -> None:
        most = self.limits.max_head_bytes
        self._refuse(HeadTooLarge(f"the URL and the headers may have {most} bytes (ENGRAM_MAX_HEAD_BYTES)", max_bytes=most))

    def _refuse(self, error: EngramError) -> None:
        self._end_head()
        problem = {**error.to_problem(), "instance": self._tell_path(), "request_id": uuid4().hex}
        log.info("refused before it was a request", slug=error.slug, request_id=problem["request_id"])
        body = orjson.dumps(problem)
        more = f"retry-after: {error.facts['retry_after']}\r\n" if "retry_after" in error.facts else ""
        answer = ANSWER.format(
            status=error.status, title=error.title, length=len(body), request_id=problem["request_id"], more=more
        )
        self.transport.write(answer.encode() + body)
        self.transport.close()

    def _tell_path(self) -> str:
        """As far as it has come; never the query, which may be what is too large."""
        url: bytes = getattr(self, "url", b"")
        return url.partition(b"?")[0][:1024].decode("ascii", "replace")

    def _give_up(self) -> None:
        log.warning("the client does not take its answer; the connection is closed")
        self.transport.abort()
