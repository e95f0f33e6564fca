"""In front of the routes: forecasts that are there already, finished, and plain ones, without what FastAPI does for each request.

What is not plain goes on to app/serving/routes.py, and so does what is wrong: it says why. Both give the same answers.
"""

import re
from dataclasses import dataclass, field
from types import SimpleNamespace

from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.contract import JSON
from app.middleware import read_headers, replay
from app.problems import answer_in_front
from app.security import Caller
from app.serving.engine import Engine
from app.serving.formats import to_json
from app.serving.schemas import ForecastInput
from app.serving.wanted import Answer, Wanted

PATH = re.compile(r"/v1/models/([a-z0-9][a-z0-9._-]{0,63})/forecasts")
ROUTE = SimpleNamespace(path="/v1/models/{model}/forecasts")
"""What the numbers of requests are counted under."""
PLAIN_TYPES = ("application/json", "")
PLAIN_ACCEPTS = ("*/*", "application/json", "")
LARGEST_KEY_BYTES = 16_384
"""A larger request is not worth keeping its answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on its way to one client."""

    answer: Answer
    media_type: str
    if_none_match: str | None
    headers: dict[str, str] = field(default_factory=dict)


def respond(reply: Reply) -> Response:
    """200, or 304 where the client has it already."""
    headers = dict(reply.headers)
    if reply.answer.etag:
        headers["ETag"] = reply.answer.etag
        if reply.if_none_match is not None and _names(reply.if_none_match, reply.answer.etag):
            return Response(status_code=304, headers=headers)
    return Response(reply.answer.content, media_type=reply.media_type, headers=headers)


def _names(if_none_match: str, etag: str) -> bool:
    return if_none_match.strip() == "*" or etag in [tag.strip() for tag in if_none_match.split(",")]


class Door:
    """A middleware, the innermost: the caller is known, and the body is plain and bounded."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = PATH.fullmatch(scope["path"]) if scope["type"] == "http" else None
        caller: Caller | None = scope.get("caller")
        if match is None or scope["method"] not in ("GET", "POST") or caller is None or not caller.may("predict"):
            await self.app(scope, receive, send)
            return
        headers = read_headers(scope)
        body = b""
        if scope["method"] == "POST" and ("content-length" in headers or "transfer-encoding" in headers):
            message = await receive()  # PlainBody hands the whole body on as one
            body = message.get("body", b"")
            receive = replay(message, receive)
        if len(body) <= LARGEST_KEY_BYTES:
            forms = headers.get("accept"), headers.get("content-type")
            scope["forecast_key"] = (caller.workspace_id, match[1], scope["method"], scope["query_string"], forms, body)
        response = None
        if "fastapi.telemetry" not in scope:  # where requests are traced, the span is the route's
            response = await answer_in_front(self._answer(scope, match[1], caller, headers, body), scope)
        if response is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = ROUTE
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, model: str, caller: Caller, headers: dict[str, str], body: bytes) -> Response | None:
        """The response, None where the routes are to give it."""
        engine: Engine = scope["app"].state.engine
        key, stamp = scope.get("forecast_key"), scope.get("stamp")
        if_none_match = headers.get("if-none-match") or None
        if key is not None and (known := engine.recall(key, stamp)) is not None and known.next_cursor is None:
            return respond(Reply(known, JSON, if_none_match))
        if body and "content-type" not in headers:
            return None  # which the routes refuse, and may be nested as deep as it likes
        is_plain = headers.get("content-type", "") in PLAIN_TYPES and headers.get("accept", "") in PLAIN_ACCEPTS
        if not is_plain or scope["method"] != "POST" or scope["query_string"]:
            return None
        try:
            asked = ForecastInput.__pydantic_validator__.validate_json(body) if body else ForecastInput()
        except ValidationError:
            return None
        if asked.series is None and asked.context is None:
            return None  # a page, which the routes know
        wanted = Wanted(
            caller.workspace_id,
            model,
            asked,
            {"pointer": "#/cutoff"},
            to_json,
            key=None if asked.context is not None else key,
            stamp=stamp,
        )
        return respond(Reply(await engine.answer(wanted), JSON, if_none_match))
