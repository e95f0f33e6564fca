"""Who did what, and when: one row for what makes, ends, moves or deletes something for good, in the transaction that does it."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.database import utc_now
from app.tables import AuditEntry

MAX_TARGET_CHARACTERS = 1024


def note(session: Session, workspace_id: int, actor: str, action: str, target: str, request_id: str | None = None) -> None:
    """Writes the entry; it is committed, or not, with the deed itself. `actor` is a key's prefix, `anybody` of an open service, or
    the user at the command line; `action` a verb and a noun; `target` the names it was done to."""
    session.add(
        AuditEntry(
            workspace_id=workspace_id,
            actor=actor,
            action=action,
            target=target[:MAX_TARGET_CHARACTERS],
            request_id=request_id,
            created_at=utc_now(),
        )
    )


def list_entries(session: Session, workspace_id: int | None, *, before: int | None, limit: int) -> Sequence[AuditEntry]:
    """Newest first; None: of all workspaces, which only the command line may ask."""
    query = sa.select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    if workspace_id is not None:
        query = query.where(AuditEntry.workspace_id == workspace_id)
    return session.scalars(query if before is None else query.where(AuditEntry.id < before)).all()


def remove_entries(session: Session, *, written_before: datetime, limit: int) -> int:
    """Removes up to `limit` entries from before then; how many."""
    old = sa.select(AuditEntry.id).where(AuditEntry.created_at < written_before).limit(limit)
    statement = sa.delete(AuditEntry).where(AuditEntry.id.in_(old)).returning(AuditEntry.id)
    return len(session.scalars(statement.execution_options(synchronize_session=False)).all())
