"""What a route may ask for: settings, a session, the caller with the scope it needs, a page of a list, the queue."""

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Depends, Path, Query, Request, Security
from fastapi.security import HTTPBearer, SecurityScopes
from sqlalchemy.orm import Session

from app import audit
from app.database import Database
from app.errors import Forbidden, InvalidRequest, NotAcceptable, Unauthorized
from app.queue import Queue
from app.security import Caller, Gate
from app.settings import Settings
from app.tables import NAME_PATTERN

K = TypeVar("K", int, str)


async def get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def get_database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def get_queue(request: Request) -> Queue:
    queue: Queue = request.app.state.queue
    return queue


async def get_gate(request: Request) -> Gate:
    gate: Gate = request.app.state.gate
    return gate


BEARER = HTTPBearer(
    scheme_name="key", auto_error=False, description="A key, as `engram keys create` or `POST /v1/keys` showed it once."
)


async def authorize(request: Request, needed: SecurityScopes, _: Annotated[object, Security(BEARER)]) -> Caller:
    """Whom app/middleware.py has found behind the key, if the key has the scopes that the route needs."""
    caller: Caller | None = request.scope.get("caller")
    if caller is None:
        raise Unauthorized("this path is open to all, and what it was asked for is not")
    for scope in needed.scopes:
        demand(caller, scope)
    return caller


def demand(caller: Caller, scope: str) -> None:
    """Raises Forbidden if the caller's key has not the scope: for what a request may ask beside that for which its route has one."""
    if not caller.may(scope):
        raise Forbidden(
            f"this call needs a key with the scope {scope!r}, and yours has {', '.join(sorted(caller.scopes))}",
            expected=scope,
            found=sorted(caller.scopes),
        )


class Audit:
    """The audit log as a route writes it: in its own transaction, before it commits."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def note(self, session: Session, caller: Caller, action: str, *target: str) -> None:
        """That the caller does `action` (a verb and a noun) to the thing that `target` names, from the outside in."""
        audit.note(session, caller.workspace_id, caller.actor, action, "/".join(target), self._request.scope["request_id"])


def read_session(database: Annotated[Database, Depends(get_database)]) -> Iterator[Session]:
    with database.read() as session:
        yield session


def write_session(database: Annotated[Database, Depends(get_database)]) -> Iterator[Session]:
    """The route commits before it answers; what it did not commit is rolled back here."""
    with database.write() as session:
        yield session


@dataclass(frozen=True)
class Page:
    """One page of a list: at most `limit` items after the key that `cursor` holds."""

    limit: int
    _after: Any

    def after(self, kind: type[K]) -> K | None:
        """The key after which the page begins: None for the first one. A cursor of another list is refused."""
        if self._after is not None and (type(self._after) is not kind or not _is_storable(self._after)):
            raise _not_a_cursor()
        return self._after

    def to_cursor(self, keys: list[Any]) -> str | None:
        """The cursor behind the last of `keys`, or None when the page was not full."""
        if len(keys) < self.limit:
            return None
        return base64.urlsafe_b64encode(orjson.dumps(keys[-1])).decode().rstrip("=")


async def get_page(
    limit: Annotated[int, Query(ge=1, le=1000, description="How many items at most.")] = 100,
    cursor: Annotated[str | None, Query(max_length=1024, description="`next_cursor` of the page before.")] = None,
) -> Page:
    if cursor is None:
        return Page(limit, None)
    try:
        return Page(limit, orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))))
    except (binascii.Error, ValueError) as error:
        raise _not_a_cursor() from error


def _is_storable(key: int | str) -> bool:
    """Whether a database can compare with it: PostgreSQL takes neither null characters nor more than 64 bits."""
    return "\x00" not in key if isinstance(key, str) else -(2**63) <= key < 2**63


def _not_a_cursor() -> InvalidRequest:
    detail = "expected the next_cursor of an earlier page of this list"
    return InvalidRequest(f"query cursor: {detail}", errors=[{"in": "query", "name": "cursor", "detail": detail}])


def choose_media_type(accept: str, offered: Sequence[str]) -> str:
    """The first of `offered` that the Accept header takes, its wishes by their q in order. Raises NotAcceptable."""
    wishes = []
    for position, part in enumerate((accept or "*/*").split(",")):
        media_type, *parameters = [piece.strip().lower() for piece in part.split(";")]
        quality = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        wishes.append((-float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else -1.0, position, media_type))
    for minus_quality, _, wish in sorted(wishes):
        for media_type in offered:
            if minus_quality < 0 and (wish in (media_type, "*/*") or wish == media_type.split("/")[0] + "/*"):
                return media_type
    raise NotAcceptable(f"Accept: expected one of {', '.join(offered)}, found {accept[:200]!r}", expected=list(offered))


SettingsNeeded = Annotated[Settings, Depends(get_settings)]
DatabaseNeeded = Annotated[Database, Depends(get_database)]
QueueNeeded = Annotated[Queue, Depends(get_queue)]
ReadSession = Annotated[Session, Depends(read_session)]
WriteSession = Annotated[Session, Depends(write_session)]
DatasetName = Annotated[str, Path(pattern=NAME_PATTERN, description="1..64 of a-z 0-9 . _ -, not beginning with . _ -")]
ModelName = Annotated[str, Path(pattern=NAME_PATTERN, description="1..64 of a-z 0-9 . _ -, not beginning with . _ -")]
GateNeeded = Annotated[Gate, Depends(get_gate)]
ReadCaller = Annotated[Caller, Security(authorize, scopes=["read"])]
WriteCaller = Annotated[Caller, Security(authorize, scopes=["write"])]
TrainCaller = Annotated[Caller, Security(authorize, scopes=["train"])]
PredictCaller = Annotated[Caller, Security(authorize, scopes=["predict"])]
AdminCaller = Annotated[Caller, Security(authorize, scopes=["admin"])]
AuditNeeded = Annotated[Audit, Depends(Audit)]
PageNeeded = Annotated[Page, Depends(get_page)]
