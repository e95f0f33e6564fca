"""In front of the routes: a few observations as plain JSON, without what FastAPI does for each request, which takes longer than storing
them.

What is not plain goes on to app/datasets/routes.py. Both give the same answers.
"""

import re
from types import SimpleNamespace

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.contract import JSON
from app.datasets.storing import COMBINED_BYTES, Posted, store
from app.idempotency import WITHOUT_KEY
from app.middleware import read_headers, replay
from app.problems import answer_in_front
from app.security import Caller

PATH = re.compile(r"/v1/datasets/([a-z0-9][a-z0-9._-]{0,63})/observations")
ROUTE = SimpleNamespace(path="/v1/datasets/{dataset}/observations")
"""What the numbers of requests are counted under."""


class PointsDoor:
    """A middleware behind what finds the caller and bounds the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if match is None or not _is_plain(scope):
            await self.app(scope, receive, send)
            return
        message = await receive()  # PlainBody hands the whole body on as one
        body: bytes = message.get("body", b"")
        if len(body) > COMBINED_BYTES:
            await self.app(scope, replay(message, receive), send)
            return
        scope["route"] = ROUTE
        await (await answer_in_front(_answer(scope, match[1], body), scope))(scope, receive, send)


def _is_plain(scope: Scope) -> bool:
    """Where requests are traced, the span is the route's."""
    caller: Caller | None = scope.get("caller")
    headers = read_headers(scope)
    return (
        caller is not None
        and caller.may("write")
        and not scope["query_string"]
        and headers.get("content-type") == JSON
        and ("content-length" in headers or "transfer-encoding" in headers)
        and "idempotency-key" not in headers
        and "fastapi.telemetry" not in scope
    )


async def _answer(scope: Scope, dataset: str, body: bytes) -> Response:
    state = scope["app"].state
    posted = Posted(dataset, body, JSON)
    receipt = await run_in_threadpool(
        store, posted, scope["caller"], WITHOUT_KEY, state.database, state.combiner, state.settings
    )
    return Response(receipt.model_dump_json(), media_type=JSON)
