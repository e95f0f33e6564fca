"""Who calls: the gate that each request passes, what a key looks like, and the session that a browser gets for one.

How keys are made and revoked stands in app/keys.
"""

import hmac
import os
import queue
import re
import secrets
import string
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import sqlalchemy.exc
from sqlalchemy.orm import Session

from app.database import Database, NotAtAGlanceError, utc_now
from app.errors import PepperMissing, Unauthorized
from app.settings import Settings
from app.statements import Asked, Statement
from app.tables import ApiKey, Workspace
from app.telemetry import log

DEFAULT_WORKSPACE_ID = 1
SCOPES = ("read", "write", "train", "predict", "admin")
"""What a key may do; docs/security.md has what belongs to each. `admin` is all of them, since it may make any key."""
PEPPER_FILE = "key-pepper"
USE_SECONDS = 60.0
"""A key's last use is written at most this often by each process."""
CLOSE_SECONDS = 2.0
MAX_KNOWN = 1_000
"""Callers that are remembered until something is committed."""
SESSION_COOKIE = "engram_session"
SESSION_SECONDS = 12 * 3600
"""How long a browser's session lasts, unless its key ends before."""
PREFIX_LENGTH = len("engram_") + 9
_HEADER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +((engram_[a-z0-9]{9})_[A-Za-z0-9_-]{43})")
_SESSION = re.compile(r"(engram_[a-z0-9]{9})\.([0-9]{1,12})\.[0-9a-f]{64}")
_STOP = None


@dataclass(frozen=True)
class Caller:
    """Whose things the request may see and what it may do with them. Without a key it is anybody, while the service is open."""

    workspace_id: int
    scopes: frozenset[str]
    key_id: int | None
    actor: str = "anybody"
    """As the audit log names it: a key's prefix."""
    limits: dict[str, Any] | None = field(default=None, hash=False)
    """The workspace's own, if it has any (app/quotas.py)."""

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


ANYBODY = Caller(DEFAULT_WORKSPACE_ID, frozenset(SCOPES), None)


def make_key() -> tuple[str, str]:
    """(key, its prefix). The prefix names the key in lists and logs and finds its row; the rest is 256 random bits."""
    prefix = "engram_" + "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(9))
    return f"{prefix}_{secrets.token_urlsafe(32)}", prefix


def digest(pepper: bytes, key: str) -> bytes:
    """What is kept of a key. Nobody guesses 256 random bits, so a slow hash, which is for passwords, would only cost time."""
    return hmac.digest(pepper, key.encode(), "sha256")


def find_pepper(settings: Settings) -> bytes | None:
    """The secret that digests are made with: ENGRAM_KEY_PEPPER, or the file in the data folder. None where there is neither."""
    if given := settings.key_pepper.get_secret_value():
        return given.encode()
    with suppress(FileNotFoundError):
        return _pepper_path(settings).read_bytes().strip()
    return None


def make_pepper(settings: Settings) -> bytes:
    """The pepper, made where the database is embedded and there is none yet. Two who make it at once get the same one."""
    found = find_pepper(settings)
    if found is None and not settings.is_database_embedded:
        raise PepperMissing(
            "keys are kept hashed with a secret that all processes share, and ENGRAM_KEY_PEPPER is not set; make one with "
            "`openssl rand -hex 32` and give it to every host"
        )
    if found is None:
        path = _pepper_path(settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent) as file:  # it has mode 0600
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(file.name, path)
        found = path.read_bytes()
    return found


def _pepper_path(settings: Settings) -> Path:
    return settings.data_dir / PEPPER_FILE


def has_keys(asked: Asked) -> bool:
    """Whether a key was ever made. From the first one on, keys are needed, even if all of them are revoked."""
    return bool(_HAS_KEYS.rows(asked)[0][0])


class _KeyRow(NamedTuple):
    id: int
    workspace_id: int
    prefix: str
    digest: bytes
    scopes: list[str]
    expires_at: datetime | None
    revoked_at: datetime | None
    limits: dict[str, Any] | None


def _select_key(where: sa.ColumnElement[bool]) -> Statement:
    columns = [Workspace.limits if name == "limits" else getattr(ApiKey, name) for name in _KeyRow._fields]
    return Statement(lambda _: sa.select(*columns).join(Workspace, Workspace.id == ApiKey.workspace_id).where(where))


_HAS_KEYS = Statement(lambda _: sa.select(sa.exists(sa.select(ApiKey.id))))
_FIND_BY_PREFIX = _select_key(ApiKey.prefix == sa.bindparam("prefix"))
_FIND_BY_ID = _select_key(ApiKey.id == sa.bindparam("id"))


def _find(prefix: str, asked: Asked) -> _KeyRow:
    for row in _FIND_BY_PREFIX.rows(asked, prefix=prefix):
        return _KeyRow(*row)
    raise Unauthorized("the key is not one of this service's")


class Gate:
    """One per process. No request is let in by what an earlier one found, unless nothing at all was committed since: what one
    process revokes is revoked in all of them."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._pepper: bytes | None = None
        self._met: dict[bytes, Caller] = {}
        self._unchanged: dict[str | None, tuple[int, Caller, datetime | None]] = {}
        self._uses = _Uses(database)

    def stamp(self) -> int | None:
        """The database's, to be taken before `recognize` and `identify`."""
        return self._database.stamp()

    def recognize(self, authorization: str | None, stamp: int | None) -> Caller | None:
        """Whom `identify` would find behind the header, by what was found while the database bore the same stamp, or at a glance; None
        if that takes more. For the loop."""
        known = self._unchanged.get(authorization)
        if stamp is None:
            return None
        if known is not None and known[0] == stamp and _is_usable(None, known[2]):
            if known[1].key_id is not None:
                self._uses.note(known[1].key_id)
            return known[1]
        if authorization is not None and self._pepper is None:
            return None  # which may have to be read from its file
        try:
            with self._database.glance() as glance:
                caller, expires_at = self._look_up(authorization, glance)
        except NotAtAGlanceError:
            return None
        if len(self._unchanged) >= MAX_KNOWN:
            self._unchanged.clear()
        self._unchanged[authorization] = stamp, caller, expires_at
        return caller

    def identify(self, authorization: str | None) -> Caller:
        """The caller behind an Authorization header. Raises Unauthorized; PepperMissing where keys cannot be checked."""
        with self._database.look() as connection:
            return self._look_up(authorization, connection)[0]

    def _look_up(self, authorization: str | None, asked: Asked) -> tuple[Caller, datetime | None]:
        if authorization is None:
            if not self._is_open(asked):
                raise Unauthorized("expected the header Authorization: Bearer <key>; whoever runs this service makes keys")
            return ANYBODY, None
        sent = _HEADER.fullmatch(authorization)
        if sent is None:
            raise Unauthorized("Authorization: expected Bearer and a key of this service, engram_..., found something else")
        key, prefix = sent.groups()
        row = _find(prefix, asked)
        found = digest(self._read_pepper(), key)
        if not hmac.compare_digest(found, row.digest):
            log.warning("key refused: it is not what was made, or this process has not the pepper it was made with", key=prefix)
            raise Unauthorized("the key is not one of this service's")
        caller = self._met[found] = self._admit(row, found)
        return caller, row.expires_at

    def is_open(self) -> bool:
        """Whether a request without a key is let in now."""
        if not self._settings.may_be_open:
            return False
        with self._database.look() as connection:
            return not has_keys(connection)

    def begin_session(self, key: str) -> str:
        """The token that stands for `key` in a browser's cookie: it opens the same for a while, ends with the key, and does not tell
        it. Nothing is stored, so that a session outlives this process. Raises Unauthorized."""
        self.identify(f"Bearer {key}")
        return self._sign(self._find(key[:PREFIX_LENGTH]), int(time.time()) + SESSION_SECONDS)

    def identify_session(self, token: str) -> Caller:
        """The caller behind a session's token. Raises Unauthorized."""
        sent = _SESSION.fullmatch(token)
        if sent is None or int(sent[2]) <= time.time():
            raise Unauthorized("the session has ended; give the key again")
        row = self._find(sent[1])
        if not hmac.compare_digest(self._sign(row, int(sent[2])), token):
            raise Unauthorized("the session is not one of this service's; give the key again")
        return self._admit(row, row.digest)

    def make_csrf(self, token: str) -> str:
        """What a request of this session must carry in a header to change anything: another site's page cannot read it."""
        return hmac.digest(self._read_pepper(), b"csrf " + token.encode(), "sha256").hex()

    def _find(self, prefix: str) -> _KeyRow:
        with self._database.look() as connection:
            return _find(prefix, connection)

    def _sign(self, row: _KeyRow, ends_at: int) -> str:
        """`ends_at`: seconds since 1970. The key's digest is signed too, so that a prefix that came again would open nothing."""
        told = f"{row.prefix}.{ends_at}"
        return f"{told}.{hmac.digest(self._read_pepper(), b'session ' + told.encode() + row.digest, 'sha256').hex()}"

    def _admit(self, row: _KeyRow, found: bytes) -> Caller:
        """The caller of the key whose digest was `found`, if it has not ended."""
        if _is_usable(row.revoked_at, row.expires_at):
            self._uses.note(row.id)
            return Caller(row.workspace_id, frozenset(row.scopes), row.id, row.prefix, row.limits)
        self._met.pop(found, None)
        how, at = ("expired", row.expires_at) if row.revoked_at is None else ("was revoked", row.revoked_at)
        raise Unauthorized(f"the key {row.prefix} {how} at {at:%Y-%m-%dT%H:%M:%SZ}")

    def recall(self, authorization: str | None) -> Caller | None:
        """Whom `identify` found last, for the little that is to be said while it cannot look: nobody revokes a key meanwhile."""
        if authorization is None:
            return ANYBODY if self._settings.may_be_open else None
        sent = _HEADER.fullmatch(authorization)
        return self._met.get(digest(self._pepper, sent[1])) if sent and self._pepper else None

    def is_welcome(self, session: Session, caller: Caller) -> bool:
        """Whether `caller`, identified a while ago, would still be let in: for answers that last."""
        if caller.key_id is None:
            return self._is_open(session)
        found = (_KeyRow(*row) for row in _FIND_BY_ID.rows(session, id=caller.key_id))
        return any(_is_usable(row.revoked_at, row.expires_at) for row in found)

    def close(self) -> None:
        self._uses.close()

    def _is_open(self, asked: Asked) -> bool:
        return self._settings.may_be_open and not has_keys(asked)

    def _read_pepper(self) -> bytes:
        """Read with the first key, which may have been made after this process began, and then kept."""
        self._pepper = self._pepper or find_pepper(self._settings)
        if self._pepper is None:
            raise PepperMissing(
                "there are keys, and the secret they are hashed with is not here: set ENGRAM_KEY_PEPPER to what it was, or make new keys "
                "with `engram keys create`"
            )
        return self._pepper


def _is_usable(revoked_at: datetime | None, expires_at: datetime | None) -> bool:
    return revoked_at is None and (expires_at is None or expires_at > utc_now())


class _Uses:
    """Writes when keys were last used, from a thread of its own: no request waits for it, and one that is lost is noted a minute later."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted: dict[int, float] = {}
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="key-uses", daemon=True)
        self._thread.start()

    def note(self, key_id: int) -> None:
        now = time.monotonic()
        if now - self._noted.get(key_id, -USE_SECONDS) >= USE_SECONDS:
            self._noted[key_id] = now
            self._waiting.put(key_id)

    def close(self) -> None:
        self._waiting.put(_STOP)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while (key_id := self._waiting.get()) is not _STOP:
            try:
                with self._database.write() as session:
                    session.execute(sa.update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=utc_now()))
                    session.commit()
            except sqlalchemy.exc.SQLAlchemyError as error:
                log.warning("the use of a key was not noted", error=str(error))
