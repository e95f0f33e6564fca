"""Workspaces and keys as rows: made, listed, revoked, rotated. What a key may do is checked in app/security.py."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import security
from app.database import utc_now
from app.errors import AlreadyExists, Conflict, NotFound
from app.tables import ApiKey, Workspace

MAX_LIFE = timedelta(days=3650)
"""The longest life of a key that has an end."""


def create_workspace(session: Session, name: str) -> Workspace:
    workspace = Workspace(name=name, created_at=utc_now())
    try:
        with session.begin_nested():
            session.add(workspace)
    except sa.exc.IntegrityError as error:
        raise AlreadyExists(f"there is a workspace {name!r} already", workspace=name) from error
    return workspace


def get_workspace(session: Session, name: str) -> Workspace:
    workspace = session.scalar(sa.select(Workspace).where(Workspace.name == name))
    if workspace is None:
        raise NotFound(f"there is no workspace {name!r}; engram workspaces create {name} makes it", workspace=name)
    return workspace


def list_workspaces(session: Session) -> Sequence[Workspace]:
    return session.scalars(sa.select(Workspace).order_by(Workspace.name)).all()


def create_key(
    session: Session,
    pepper: bytes,
    workspace_id: int,
    *,
    name: str,
    scopes: Sequence[str],
    expires_at: datetime | None,
) -> tuple[ApiKey, str]:
    """(its row, the key). The key is kept nowhere: whoever called shows it once."""
    key, prefix = security.make_key()
    row = ApiKey(
        workspace_id=workspace_id,
        name=name,
        prefix=prefix,
        digest=security.digest(pepper, key),
        scopes=[scope for scope in security.SCOPES if scope in scopes],
        created_at=utc_now(),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return row, key


def get_key(session: Session, workspace_id: int | None, prefix: str) -> ApiKey:
    """The key of this prefix in the workspace; None: in any, which only the command line may ask."""
    row = session.scalar(_in(workspace_id).where(ApiKey.prefix == prefix))
    if row is None:
        raise NotFound(f"there is no key {prefix!r}; a key is named by its prefix, which lists show", key=prefix)
    return row


def list_keys(
    session: Session, workspace_id: int | None, *, after: int | None = None, limit: int | None = None
) -> Sequence[ApiKey]:
    """Oldest first, the revoked and the expired too. None: of all workspaces."""
    query = _in(workspace_id).order_by(ApiKey.id).limit(limit)
    return session.scalars(query if after is None else query.where(ApiKey.id > after)).all()


def revoke_key(session: Session, row: ApiKey) -> None:
    """From the next request on, in every process. Revoking again changes nothing."""
    row.revoked_at = row.revoked_at or utc_now()
    session.flush()


def rotate_key(session: Session, pepper: bytes, old: ApiKey, overlap: timedelta) -> tuple[ApiKey, str]:
    """A new key that is what the old one was, and lives as long from now; the old one is good for another `overlap`."""
    now = utc_now()
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise Conflict(f"key {old.prefix} is no longer good, so nothing uses it; create a new one", key=old.prefix)
    expires_at = None if old.expires_at is None else now + (old.expires_at - old.created_at)
    made = create_key(session, pepper, old.workspace_id, name=old.name, scopes=old.scopes, expires_at=expires_at)
    last = now + overlap
    old.expires_at = last if old.expires_at is None else min(old.expires_at, last)
    session.flush()
    return made


def _in(workspace_id: int | None) -> sa.Select[ApiKey]:
    query = sa.select(ApiKey)
    return query if workspace_id is None else query.where(ApiKey.workspace_id == workspace_id)
