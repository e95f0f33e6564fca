"""What the registry takes and gives over HTTP."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from app.contract import Step, StrictInput


class AliasInput(StrictInput):
    version: Annotated[int, Field(ge=1, le=2**31, description="The version's number.")]


class AliasOutput(BaseModel):
    model: str
    alias: str
    version: int


class ArtifactOutput(BaseModel):
    sha256: str
    size_bytes: int


class VersionOutput(BaseModel):
    """Immutable; `aliases` are the names that point at it now."""

    model: str
    version: int
    dataset: str
    horizon: int
    cutoff: Step
    aliases: list[str]
    metrics: dict[str, Any]
    warnings: list[str]
    config: dict[str, Any]
    data: dict[str, Any]
    artifact: ArtifactOutput
    training: str | None
    code_version: str
    created_at: datetime


class ModelOutput(BaseModel):
    name: str
    dataset: str
    horizon: int
    aliases: dict[str, int]
    newest_version: int | None
    created_at: datetime


class ModelList(BaseModel):
    items: list[ModelOutput]
    next_cursor: str | None


class VersionList(BaseModel):
    items: list[VersionOutput]
    next_cursor: str | None


class BacktestItem(BaseModel):
    """`actual` and the quantiles stand beside each other step by step; null is a missing observation."""

    series: str
    cutoff: Step
    timestamps: list[Step]
    actual: list[float | None]
    median: list[float]
    quantiles: dict[str, list[float]]


class BacktestList(BaseModel):
    items: list[BacktestItem]
    next_cursor: str | None
