"""The door to a workspace's audit log, for whoever has its admin key."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app import audit
from app.dependencies import AdminCaller, PageNeeded, ReadSession

router = APIRouter(prefix="/v1/audit", tags=["audit"])


class AuditOutput(BaseModel):
    actor: str = Field(description="A key's prefix, `anybody` of an open service, or who was at the command line.")
    action: str
    target: str = Field(description="What it was done to, from the outside in, with a slash between.")
    request_id: str | None
    created_at: datetime


class AuditList(BaseModel):
    items: list[AuditOutput]
    next_cursor: str | None


@router.get("")
def list_audit(session: ReadSession, caller: AdminCaller, page: PageNeeded) -> AuditList:
    """Who made, ended, moved or deleted what, and when; newest first."""
    rows = audit.list_entries(session, caller.workspace_id, before=page.after(int), limit=page.limit)
    items = [AuditOutput(**{name: getattr(row, name) for name in AuditOutput.model_fields}) for row in rows]
    return AuditList(items=items, next_cursor=page.to_cursor([row.id for row in rows]))
