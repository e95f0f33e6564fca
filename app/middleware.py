"""What every request passes before any route: its id, its log line, its numbers, the last resort, its key, and its body, plain and bounded."""

import hmac
import logging
import re
import time
import zlib
from collections.abc import Callable
from random import getrandbits

import structlog
import zstandard
from starlette.concurrency import run_in_threadpool
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BadRequest, BodyTooLarge, EngramError, Forbidden, InternalError, Unavailable, UnsupportedMediaType
from app.problems import DATABASE_AWAY, to_response
from app.security import SESSION_COOKIE, Caller, Gate
from app.telemetry import count_request, log

SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
ZSTD_SLICE_BYTES = 1024
"""zstd packs 128 KiB into 4 bytes at best: fed in slices this small, a bomb overshoots its limit by 32 MiB at most."""
THREAD_FROM_BYTES = 65_536
"""A smaller body is decompressed on the loop: the hop to a thread costs more."""
OPEN_PATHS = re.compile(
    r"/|/(datasets|models|trainings)/[^/]*|/session|/static/.*|/favicon\.ico"
    r"|/health/(live|ready)|/openapi\.json|/docs|/docs/oauth2-redirect|/docs-static/.*"
)
"""What needs no key, since it tells nothing of anybody: probes cannot send one, and the pages are the same on every installation; what
they show they ask of the API, as whoever looks at them."""
CSRF_COOKIE, CSRF_HEADER = "engram_csrf", "x-csrf-token"
READING = ("GET", "HEAD", "OPTIONS")


def read_headers(scope: Scope) -> dict[str, str]:
    """The request's headers by their names in small letters, of several the first; made once for all that ask."""
    found: dict[str, str] | None = scope.get("read_headers")
    if found is None:
        pairs = reversed([*scope["headers"]])
        found = scope["read_headers"] = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
    return found


class RequestContext:
    """Gives each request an id, logs it, counts it, and turns what nobody caught into a 500 that says only that id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = read_headers(scope).get("x-request-id", "")
        # Drawn without a system call: it names a line of the log and opens nothing.
        request_id = sent if SANE_ID.fullmatch(sent) else f"{getrandbits(128):032x}"
        scope["request_id"] = request_id
        status = 0
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                others = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
                message["headers"] = [*others, (b"x-request-id", request_id.encode())]
            await send(message)

        bound = structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self.app(scope, receive, send_with_id)
        except EngramError as error:
            await to_response(error, path=scope["path"], request_id=request_id)(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001 - the last resort: whatever it is, the client gets a problem object
            log.exception("unexpected error", path=scope["path"], exc_info=error)
            if not status:
                problem = InternalError("an unexpected error; the log has it under this request_id")
                await to_response(problem, path=scope["path"], request_id=request_id)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "none")
            count_request(scope["method"], route, status, seconds)
            if logging.root.isEnabledFor(logging.DEBUG):  # asked here: structlog's own way to nothing is ten times as long
                log.debug("request", method=scope["method"], path=scope["path"], status=status, ms=round(seconds * 1e3, 1))
            structlog.contextvars.reset_contextvars(**bound)


class Authentication:
    """Finds out who calls before a byte of the body is read. Every path is closed unless it is named in OPEN_PATHS."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not OPEN_PATHS.fullmatch(scope["path"]):
            gate: Gate = scope["app"].state.gate
            headers = read_headers(scope)
            sent = headers.get("authorization")
            session = "" if sent else cookie_parser(headers.get("cookie", "")).get(SESSION_COOKIE, "")
            stamp = scope["stamp"] = gate.stamp()
            try:
                if session:
                    scope["caller"] = await run_in_threadpool(identify_browser, gate, session, scope["method"], headers)
                else:
                    scope["caller"] = gate.recognize(sent, stamp) or await run_in_threadpool(gate.identify, sent)
            except DATABASE_AWAY as error:
                log.error("database away", error=str(error))
                scope["caller"] = gate.recall(sent) if scope["path"] == "/metrics" else None
                if scope["caller"] is None:
                    raise Unavailable("the database cannot be reached; try again shortly", retry_after=5) from error
        await self.app(scope, receive, send)


def identify_browser(gate: Gate, session: str, method: str, headers: dict[str, str]) -> Caller:
    """The caller behind a browser's session. A cookie comes along with whatever any page sends here, so that a request which changes
    something must also carry what only our own pages can read."""
    caller = gate.identify_session(session)
    if method not in READING and not hmac.compare_digest(
        headers.get(CSRF_HEADER, "").encode(), gate.make_csrf(session).encode()
    ):
        raise Forbidden(f"a session may change things only with the header {CSRF_HEADER} that belongs to it; reload the page")
    return caller


class PlainBody:
    """Reads the whole body, at most `max_bytes` of it, undoes its Content-Encoding, and hands it on as one message."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = read_headers(scope) if scope["type"] == "http" else {}
        if "content-length" not in headers and "transfer-encoding" not in headers:
            await self.app(scope, receive, send)
            return
        body = await self._read(headers, receive)
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            if len(body) >= THREAD_FROM_BYTES:
                body = await run_in_threadpool(decompress, body, encoding, self.max_bytes)
            else:
                body = decompress(body, encoding, self.max_bytes)
        await self.app(scope, replay({"type": "http.request", "body": body, "more_body": False}, receive), send)

    async def _read(self, headers: dict[str, str], receive: Receive) -> bytes:
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self.max_bytes:
            raise _too_large(self.max_bytes, int(announced))
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise BadRequest("the connection closed before the body was complete")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.max_bytes:
                raise _too_large(self.max_bytes, None)
            if not message.get("more_body", False):
                return b"".join(parts)


def replay(message: Message, receive: Receive) -> Receive:
    """The message, and then what comes."""
    waiting = [message]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The plain body of a `gzip` or `zstd` one. Stops as soon as it grows beyond `max_bytes`: a bomb costs no more than that."""
    if encoding == "gzip":
        return _decompress_all(_gunzip, body, encoding, max_bytes)
    if encoding == "zstd":
        return _decompress_all(_unzstd, body, encoding, max_bytes)
    raise UnsupportedMediaType(
        f"Content-Encoding: expected gzip, zstd or none, found {encoding!r}", expected=["gzip", "zstd"], found=encoding
    )


def _decompress_all(one: Callable[[bytes, int], bytes], body: bytes, encoding: str, max_bytes: int) -> bytes:
    try:
        plain = one(body, max_bytes + 1)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise BadRequest(f"the body is not valid {encoding}: {error}") from error
    if len(plain) > max_bytes:
        raise _too_large(max_bytes, None)
    return plain


def _gunzip(body: bytes, limit: int) -> bytes:
    plain = bytearray()
    while body:  # a gzip file may be several members end to end
        member = zlib.decompressobj(wbits=31)
        plain += member.decompress(body, limit - len(plain))
        if len(plain) >= limit:
            break
        if not member.eof:
            raise EOFError("it ends too early")
        body = member.unused_data
    return bytes(plain)


def _unzstd(body: bytes, limit: int) -> bytes:
    plain = bytearray()
    while body:  # frames end to end, as with gzip
        frame = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
        for start in range(0, len(body), ZSTD_SLICE_BYTES):
            plain += frame.decompress(body[start : start + ZSTD_SLICE_BYTES])
            if len(plain) >= limit:
                return bytes(plain)
            if frame.eof:
                body = frame.unused_data + body[start + ZSTD_SLICE_BYTES :]
                break
        else:
            raise EOFError("it ends too early")
    return bytes(plain)


def _too_large(max_bytes: int, found: int | None) -> BodyTooLarge:
    found_text = f", found {found}" if found else ""
    return BodyTooLarge(
        f"the body may have at most {max_bytes} bytes when decompressed{found_text}; "
        "send it in parts (every part may be sent twice without harm), or raise ENGRAM_MAX_BODY_BYTES",
        max_bytes=max_bytes,
    )
