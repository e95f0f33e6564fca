"""The door to a workspace's keys, for whoever has its admin key."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from app import contract
from app.database import utc_now
from app.dependencies import AdminCaller, AuditNeeded, PageNeeded, ReadSession, SettingsNeeded, WriteSession
from app.errors import InvalidRequest
from app.keys import service
from app.keys.schemas import KeyInput, KeyList, KeyOutput, MadeKeyOutput
from app.security import make_pepper
from app.tables import ApiKey
from app.telemetry import log

router = APIRouter(prefix="/v1/keys", tags=["keys"])
Prefix = Annotated[str, Path(pattern=r"^engram_[a-z0-9]{9}$", description="The key up to its second underscore.")]


@router.post(
    "", status_code=201, responses={201: contract.link_to("DELETE /v1/keys/{prefix}", prefix="$response.body#/prefix")}
)
def create_key(
    session: WriteSession,
    settings: SettingsNeeded,
    caller: AdminCaller,
    audit: AuditNeeded,
    response: Response,
    body: KeyInput,
) -> MadeKeyOutput:
    """Makes a key to this workspace and shows it, once. The very first one closes the service to whoever has none."""
    now = utc_now()
    if body.expires_at is not None and not now < body.expires_at <= now + service.MAX_LIFE:
        detail = f"expected a time within the next {service.MAX_LIFE.days} days, found {body.expires_at.isoformat()}"
        raise InvalidRequest(f"#/expires_at: {detail}", errors=[{"pointer": "#/expires_at", "detail": detail}])
    pepper = make_pepper(settings)
    row, key = service.create_key(
        session, pepper, caller.workspace_id, name=body.name, scopes=body.scopes, expires_at=body.expires_at
    )
    audit.note(session, caller, "make key", row.prefix, body.name, ",".join(row.scopes))
    session.commit()
    log.info("key made", key=row.prefix, scopes=row.scopes)
    response.headers["Cache-Control"] = "no-store"
    return MadeKeyOutput(key=key, **_describe(row))


@router.get("")
def list_keys(session: ReadSession, caller: AdminCaller, page: PageNeeded) -> KeyList:
    """Oldest first, the revoked and the expired too."""
    rows = service.list_keys(session, caller.workspace_id, after=page.after(int), limit=page.limit)
    return KeyList(items=[KeyOutput(**_describe(row)) for row in rows], next_cursor=page.to_cursor([row.id for row in rows]))


@router.delete("/{prefix}", status_code=204)
def revoke_key(session: WriteSession, caller: AdminCaller, audit: AuditNeeded, prefix: Prefix) -> None:
    """Revokes a key: from the next request on, everywhere. It stays on the list."""
    service.revoke_key(session, service.get_key(session, caller.workspace_id, prefix))
    audit.note(session, caller, "revoke key", prefix)
    session.commit()
    log.info("key revoked", key=prefix)


def _describe(row: ApiKey) -> dict[str, Any]:
    return {name: getattr(row, name) for name in KeyOutput.model_fields}
