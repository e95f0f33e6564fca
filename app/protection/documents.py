"""How large and how deep a JSON body may be: as Python objects it takes many times its bytes, and a parser goes as deep as it."""

import re

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BodyTooLarge, JsonTooDeep
from app.settings import Settings

IS_JSON = re.compile(r"\s*application/([\w.+-]+\+)?(x-nd)?json\s*(;.*)?", re.IGNORECASE)
STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
THREAD_FROM_BYTES = 65_536
MEASURED_BYTES = 2**20
"""Of a longer body only so much is looked at: what is deeper than a parser goes is deep from its beginning, or is refused by its shape."""


class Documents:
    """Refuses JSON that is too large or too deep, before anything parses it. Stands behind what reads the body as one message."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.max_bytes = settings.max_json_bytes
        self.max_depth = settings.max_json_depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not IS_JSON.fullmatch(Headers(scope=scope).get("content-type", "")):
            await self.app(scope, receive, send)
            return
        message = await receive()
        body: bytes = message.get("body", b"")
        if len(body) > self.max_bytes:
            raise BodyTooLarge(
                f"a JSON body may have at most {self.max_bytes} bytes, found {len(body)}; send it in parts, or observations as CSV, Parquet or "
                "Arrow, or raise ENGRAM_MAX_JSON_BYTES",
                max_bytes=self.max_bytes,
            )
        head = body[:MEASURED_BYTES]
        depth = await run_in_threadpool(measure_depth, head) if len(head) >= THREAD_FROM_BYTES else measure_depth(head)
        if depth > self.max_depth:
            raise JsonTooDeep(
                f"a JSON body may be nested {self.max_depth} levels deep (ENGRAM_MAX_JSON_DEPTH), found {depth}",
                max_depth=self.max_depth,
                found=depth,
            )
        handed_on = False

        async def receive_again() -> Message:
            nonlocal handed_on
            if handed_on:
                return await receive()
            handed_on = True
            return message

        await self.app(scope, receive_again, send)


def measure_depth(body: bytes) -> int:
    """How many brackets are open at most, those within strings aside; of what is no JSON, about."""
    codes = np.frombuffer(STRINGS.sub(b"", body), np.uint8)
    opens = np.isin(codes, np.frombuffer(b"[{", np.uint8)).astype(np.int32)
    closes = np.isin(codes, np.frombuffer(b"]}", np.uint8)).astype(np.int32)
    return int((opens - closes).cumsum().max(initial=0))
