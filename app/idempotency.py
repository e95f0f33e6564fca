"""`Idempotency-Key`: a request that is sent again gets its first answer again. The key is committed together with the effect.

A route does its work inside `hold` (or `alone` and `find`), hands what it found there back if that is not None, and calls `keep`
before it commits: a request that was refused or cut off leaves no key, and may be sent again under it.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.contract import KEPT_KEYS
from app.database import database_now
from app.errors import KeyReused, RequestAtWork
from app.tables import IdempotencyKey

RETRY_SECONDS = 1
REPLAYED = "Idempotent-Replayed"
"""The header that says of an answer that it is the first one again."""


class AtWork:
    """The keys whose requests are at work in this process. (On PostgreSQL a lock of the database's says so of all processes; on
    SQLite a request of another process waits for the file's one writer, and then finds the first answer.)"""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: set[tuple[int, str]] = set()

    def take(self, place: tuple[int, str]) -> bool:
        with self._lock:
            is_free = place not in self._keys
            self._keys.add(place)
            return is_free

    def give_back(self, place: tuple[int, str]) -> None:
        with self._lock:
            self._keys.discard(place)


class Once:
    """One request with its key, or without one: then nothing is looked up, and nothing kept."""

    def __init__(self, key: str | None, request_sha256: str, at_work: AtWork, response: Response) -> None:
        self._key = key
        self._request_sha256 = request_sha256
        self._at_work = at_work
        self._response = response

    @contextmanager
    def hold(self, session: Session, workspace_id: int) -> Iterator[dict[str, Any] | None]:
        """The first answer under this key, or None: the effect is still to come, and nobody else causes it meanwhile.

        Raises KeyReused where another request came under the key, and RequestAtWork while the first is not done.
        """
        with self.alone(workspace_id):
            yield self.find(session, workspace_id)

    @contextmanager
    def alone(self, workspace_id: int) -> Iterator[None]:
        """Keeps this process's other requests under the key away: for a transaction that is shared, and begins and ends in here."""
        if self._key is None:
            yield
            return
        place = (workspace_id, self._key)
        if not self._at_work.take(place):
            raise _at_work(self._key)
        try:
            yield
        finally:
            self._at_work.give_back(place)

    def find(self, session: Session, workspace_id: int) -> dict[str, Any] | None:
        """As `hold`, inside of `alone`: until the transaction ends, no other process causes the effect."""
        if self._key is None:
            return None
        place = (workspace_id, self._key)
        if not _lock(session, place):
            raise _at_work(self._key)
        return self._find(session, place)

    def keep(self, session: Session, workspace_id: int, status: int, answer: BaseModel) -> None:
        """Writes the answer beside its effect; the caller commits both."""
        if self._key is not None:
            row = IdempotencyKey(
                workspace_id=workspace_id,
                key=self._key,
                request_sha256=self._request_sha256,
                status=status,
                response=answer.model_dump(mode="json"),
                created_at=database_now(session),
            )
            session.add(row)
            session.flush()

    def _find(self, session: Session, place: tuple[int, str]) -> dict[str, Any] | None:
        ours = sa.and_(IdempotencyKey.workspace_id == place[0], IdempotencyKey.key == place[1])
        too_old = IdempotencyKey.created_at < database_now(session) - KEPT_KEYS
        session.execute(sa.delete(IdempotencyKey).where(ours, too_old).execution_options(synchronize_session=False))
        kept = session.scalar(sa.select(IdempotencyKey).where(ours))
        if kept is None:
            return None
        if kept.request_sha256 != self._request_sha256:
            raise KeyReused(
                f"Idempotency-Key {place[1]!r} came with another request at {kept.created_at:%Y-%m-%dT%H:%M:%SZ}; "
                "send this one under a key of its own, or without one",
                key=place[1],
                first_at=kept.created_at.isoformat(),
            )
        self._response.headers[REPLAYED] = "true"
        return kept.response


WITHOUT_KEY = Once(None, "", AtWork(), Response())


async def get_once(
    request: Request,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            pattern=r"^[!-~]([ -~]*[!-~])?$",
            description="Any text of your own, a UUID for one: for 24 h the same request under it gives the first answer again.",
        ),
    ] = None,
) -> Once:
    """Two requests are the same if method, path, query, type of body and body are."""
    digest = hashlib.sha256()
    if idempotency_key is not None:
        content_type = request.headers.get("content-type", "").strip().lower()
        digest.update(f"{request.method}\n{request.url.path}\n{request.url.query}\n{content_type}\n".encode())
        digest.update(await request.body())
    return Once(idempotency_key, digest.hexdigest(), request.app.state.at_work, response)


OnceNeeded = Annotated[Once, Depends(get_once)]


def _lock(session: Session, place: tuple[int, str]) -> bool:
    """Whether no other process is at work under this key; from here to the end of the transaction none will be."""
    if session.get_bind().dialect.name != "postgresql":
        return True
    number = int.from_bytes(hashlib.sha256(f"{place[0]}/{place[1]}".encode()).digest()[:8], "big", signed=True)
    return bool(session.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(number))))


def _at_work(key: str) -> RequestAtWork:
    return RequestAtWork(
        f"the first request with Idempotency-Key {key!r} is still at work; send this one again in {RETRY_SECONDS} s for its answer",
        key=key,
        retry_after=RETRY_SECONDS,
    )
