"""Errors -> application/problem+json (RFC 9457): ours, FastAPI's own 422, Starlette's 404 and 405, and the database's absence."""

import re
from collections.abc import Awaitable
from typing import Any, TypeVar

import orjson
import sqlalchemy.exc
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from app.database import is_disk_full
from app.errors import (
    BadRequest,
    DiskFull,
    EngramError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Place,
    Unavailable,
    UnsupportedMediaType,
)
from app.telemetry import log

MAX_PLACES = 20
MAX_FOUND_CHARACTERS = 80
R = TypeVar("R", bound=Response | None)


PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "request_id"],
    "properties": {
        "type": {"type": "string", "description": "/problems/ and a name; docs/problems.md says the cure of each."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "Where, what was expected, what was found."},
        "instance": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object"}, "description": "Up to 20 places."},
    },
}
PROBLEM_CONTENT = {"application/problem+json": {"schema": PROBLEM_SCHEMA}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "A problem with the request.", "content": PROBLEM_CONTENT},
    "5XX": {"description": "A problem of the service.", "content": PROBLEM_CONTENT},
}
"""For the OpenAPI document: every operation may answer so."""
KEY_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {
        "description": "No key, or one that is unknown, expired or revoked.",
        "content": PROBLEM_CONTENT,
        "headers": {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "`Bearer`."}},
    },
    403: {"description": "The key has not the scope that this needs.", "content": PROBLEM_CONTENT},
}
"""What an operation that needs a key may answer besides."""
DATABASE_AWAY = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.TimeoutError)


def install(app: FastAPI) -> None:
    """Hangs the handlers into `app`; what no handler knows is answered by app/middleware.py."""
    app.add_exception_handler(EngramError, _answer_ours)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_starlette)
    app.add_exception_handler(sqlalchemy.exc.DataError, _answer_data)
    for away in DATABASE_AWAY:
        app.add_exception_handler(away, _answer_database)


async def answer_in_front(answer: Awaitable[R], scope: Scope) -> R | Response:
    """What is awaited, or the problem that the handlers make of what it raises: for what answers in front of the routes."""
    try:
        return await answer
    except EngramError as error:
        return _answer_ours(Request(scope), error)
    except DATABASE_AWAY as error:
        return _answer_database(Request(scope), error)
    except sqlalchemy.exc.DataError as error:
        return _answer_data(Request(scope), error)


def to_response(error: EngramError, *, path: str, request_id: str) -> Response:
    problem = {**error.to_problem(), "instance": path, "request_id": request_id}
    headers = {}
    if error.status in (429, 503) or "retry_after" in error.facts:
        headers["Retry-After"] = str(error.facts.get("retry_after", 5))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        orjson.dumps(problem, default=str),
        status_code=error.status,
        media_type="application/problem+json",
        headers=headers,
    )


def from_validation(errors: list[Any]) -> InvalidRequest:
    """pydantic's list of errors as one problem with a pointer for each place."""
    places = [_to_place(error) for error in errors[:MAX_PLACES]]
    if places and "pointer" in places[0]:
        where = f"{places[0]['pointer']}: "
    else:
        where = f"{places[0].get('in')} {places[0].get('name')}: " if places else ""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InvalidRequest(f"{where}{places[0]['detail'] if places else 'not valid'}{more}", errors=places)


def _to_place(error: dict[str, Any]) -> Place:
    part, *path = error["loc"]
    detail = error["msg"]
    if "input" in error and error["type"] not in ("missing", "json_invalid"):
        found = repr(error["input"])
        detail += f"; found {found if len(found) <= MAX_FOUND_CHARACTERS else found[:MAX_FOUND_CHARACTERS] + '...'}"
    if error["type"] == "json_invalid":
        return {"pointer": "#", "detail": f"not valid JSON at byte {path[0] if path else 0}: {error['ctx']['error']}"}
    if part == "body":
        return {"pointer": "#" + "".join(f"/{step}" for step in path), "detail": detail}
    return {"in": part, "name": ".".join(str(step) for step in path), "detail": detail}


def _respond(request: Request, error: EngramError) -> Response:
    return to_response(error, path=request.url.path, request_id=request.scope.get("request_id", ""))


def _answer_ours(request: Request, error: Exception) -> Response:
    if not isinstance(error, EngramError):
        raise error  # FastAPI gives each handler its own kind
    if error.status >= 500:
        log.error("problem", slug=error.slug, detail=error.detail, exc_info=error)
    return _respond(request, error)


def _answer_validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    if any(
        isinstance(one.get("input"), bytes) for one in error.errors()
    ):  # FastAPI parses a body only if it says that it is JSON
        found = request.headers.get("content-type", "none")
        return _respond(request, UnsupportedMediaType(f"Content-Type: expected application/json, found {found}", found=found))
    return _respond(request, from_validation(list(error.errors())))


def _answer_starlette(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path
    if error.status_code == 404:
        return _respond(request, NotFound(f"there is no {path}; /docs lists the paths"))
    if error.status_code == 405:
        allowed = ", ".join(_list_methods(request)) or (error.headers or {}).get("Allow", "")
        response = _respond(request, MethodNotAllowed(f"{path} does not take {request.method}; it takes {allowed}"))
        response.headers["Allow"] = allowed
        return response
    if error.status_code < 500:
        return _respond(request, BadRequest(str(error.detail)))
    return _respond(request, InternalError("an unexpected error; the log has it under this request_id"))


def _list_methods(request: Request) -> list[str]:
    """What the path takes, by the OpenAPI document: the router itself tells only the methods of the first operation on it."""
    found: set[str] = set()
    for path, operations in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), request.url.path):
            found |= operations.keys()
    return sorted(method.upper() for method in found)


def _answer_data(request: Request, error: Exception) -> Response:
    """A value that no check foresaw and no column can hold: the request is wrong, not the service."""
    log.error("value refused by the database", error=str(error))
    return _respond(request, InvalidRequest("the request holds a value that cannot be stored"))


def from_database(error: Exception) -> EngramError:
    """What one of DATABASE_AWAY is to the client; the log has what the database said."""
    if is_disk_full(error):
        log.error("disk full", error=str(error))
        return DiskFull("the disk of the database is full; nothing of this request was stored, and nothing else is harmed")
    log.error("database away", error=str(error))
    return Unavailable("the database cannot be reached; try again shortly", retry_after=5)


def _answer_database(request: Request, error: Exception) -> Response:
    return _respond(request, from_database(error))
