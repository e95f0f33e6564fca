"""What is said of keys over HTTP. The key itself stands in one answer only: that to the request that made it."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field

from app.contract import StrictInput
from app.tables import NAME_PATTERN

KeyScope = Literal["read", "write", "train", "predict", "admin"]


class KeyInput(StrictInput):
    name: Annotated[str, Field(pattern=NAME_PATTERN, description="What it is for; several keys may have one name.")]
    scopes: Annotated[list[KeyScope], Field(min_length=1, max_length=5, description="`admin` is all of them.")]
    expires_at: Annotated[AwareDatetime | None, Field(strict=False, description="When it ends; null: when it is revoked.")] = (
        None
    )


class KeyOutput(BaseModel):
    """`last_used_at` is at most about a minute behind."""

    prefix: str
    name: str
    scopes: list[KeyScope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class MadeKeyOutput(KeyOutput):
    """`key` is shown here and never again."""

    key: str


class KeyList(BaseModel):
    items: list[KeyOutput]
    next_cursor: str | None
