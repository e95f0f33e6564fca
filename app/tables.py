"""The whole database schema on one page.

Every table has a surrogate id, and every one that belongs to somebody a workspace; names are unique within their workspace, so a
rename is one row. Steps are positions on the dataset's grid (app/calendar.py); timestamps of our own doings are UTC.
"""

from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, deferred, mapped_column

from app.database import Base

TRAINING_STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")
ENDED_STATUSES = ("succeeded", "failed", "cancelled")
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""What a dataset or a model may be called."""


def _reference(target: str, *, ondelete: str = "CASCADE", index: bool = False) -> Any:
    return mapped_column(sa.ForeignKey(target, ondelete=ondelete), index=index)


class Workspace(Base):
    """Whose things these are; `default` exists from the first migration on.

    `limits` are its own in the place of the settings' (app/quotas.py); `claimed_at` is when a training of it last began.
    """

    __tablename__ = "workspaces"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(64), unique=True)
    created_at: Mapped[datetime]
    limits: Mapped[dict[str, Any] | None]
    claimed_at: Mapped[datetime | None]


class WorkspaceDay(Base):
    """What a workspace used up in one day, UTC. It only grows, whatever is deleted."""

    __tablename__ = "workspace_days"
    __table_args__ = (sa.UniqueConstraint("workspace_id", "day"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    day: Mapped[date]
    body_bytes: Mapped[int] = mapped_column(server_default="0")
    training_seconds: Mapped[float] = mapped_column(server_default="0")


class AuditEntry(Base):
    """Who did what, and when: what makes, ends, moves or deletes something for good. Written with the deed itself."""

    __tablename__ = "audit_entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id", index=True)
    actor: Mapped[str] = mapped_column(sa.String(255))
    action: Mapped[str] = mapped_column(sa.String(64))
    target: Mapped[str] = mapped_column(sa.String(1024))
    request_id: Mapped[str | None] = mapped_column(sa.String(128))
    created_at: Mapped[datetime] = mapped_column(index=True)


class ApiKey(Base):
    """A key as its prefix and digest: the key itself is shown once and kept nowhere."""

    __tablename__ = "api_keys"
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id", index=True)
    name: Mapped[str] = mapped_column(sa.String(64))
    prefix: Mapped[str] = mapped_column(sa.String(16), unique=True)
    digest: Mapped[bytes]
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """The first answer to a request that may be sent again."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (sa.UniqueConstraint("workspace_id", "key"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    key: Mapped[str] = mapped_column(sa.String(255))
    request_sha256: Mapped[str] = mapped_column(sa.String(64))
    status: Mapped[int | None]
    response: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(index=True)


class Dataset(Base):
    """Series of one frequency that are learned together. freq and phase are null until the first observations."""

    __tablename__ = "datasets"
    __table_args__ = (sa.UniqueConstraint("workspace_id", "name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    name: Mapped[str] = mapped_column(sa.String(64))
    description: Mapped[str] = mapped_column(sa.Text, default="")
    freq: Mapped[str | None] = mapped_column(sa.String(16))
    phase_us: Mapped[int | None]
    time_zone: Mapped[str] = mapped_column(sa.String(64), default="UTC")
    aggregate: Mapped[str | None] = mapped_column(sa.String(8))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Series(Base):
    """One named sequence and what its chunks hold, kept in step with them. `cutoff_step` is the last step with a value.

    Names sort by code point on both databases, so that pages and answers have one order and a prefix is a range of the index.
    """

    __tablename__ = "series"
    __table_args__ = (sa.UniqueConstraint("dataset_id", "name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    dataset_id: Mapped[int] = _reference("datasets.id")
    name: Mapped[str] = mapped_column(sa.String(256).with_variant(sa.String(256, collation="C"), "postgresql"))
    revision: Mapped[int] = mapped_column(default=0)
    count: Mapped[int] = mapped_column(default=0)
    missing: Mapped[int] = mapped_column(default=0)
    first_step: Mapped[int | None]
    last_step: Mapped[int | None]
    cutoff_step: Mapped[int | None]


class Chunk(Base):
    """1,024 aligned steps of one series and channel (0 is the value), encoded by app/datasets/chunks.py."""

    __tablename__ = "chunks"
    __table_args__ = (sa.UniqueConstraint("series_id", "channel", "number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    series_id: Mapped[int] = _reference("series.id")
    channel: Mapped[int] = mapped_column(sa.SmallInteger, default=0)
    number: Mapped[int]
    data: Mapped[bytes]


class Model(Base):
    """A name that serves. `newest_number` only grows, so that a deleted version's number never comes back."""

    __tablename__ = "models"
    __table_args__ = (sa.UniqueConstraint("workspace_id", "name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    dataset_id: Mapped[int] = _reference("datasets.id", index=True)
    name: Mapped[str] = mapped_column(sa.String(64))
    horizon: Mapped[int]
    newest_number: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]


class Training(Base):
    """One request's life, and the queue itself: the row is the truth, Celery's message a hint.

    A search is a training that waits for others, its trials (`parent_id`, `trial_number`), while `searching`: nobody claims it then.
    `parent_id` is no foreign key, since SQLite adds none to a table that is there; trials go with their parent's model.
    """

    __tablename__ = "trainings"
    __table_args__ = (
        sa.Index("ix_trainings_status_id", "status", "id"),
        sa.Index("ix_trainings_parent_id_trial_number", "parent_id", "trial_number", unique=True),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    public_id: Mapped[str] = mapped_column(sa.String(36), unique=True)
    model_id: Mapped[int] = _reference("models.id", index=True)
    dataset_id: Mapped[int] = _reference("datasets.id", index=True)
    request: Mapped[dict[str, Any]]
    cutoff_step: Mapped[int]
    data_revision: Mapped[str | None] = mapped_column(sa.String(64))
    status: Mapped[str] = mapped_column(sa.String(16))
    device_wanted: Mapped[str] = mapped_column(sa.String(8))
    hinted_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    attempt: Mapped[int] = mapped_column(default=0)
    lost_attempts: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str | None] = mapped_column(sa.String(255))
    lease_expires_at: Mapped[datetime | None]
    device: Mapped[str | None] = mapped_column(sa.String(64))
    progress: Mapped[dict[str, Any] | None]
    config: Mapped[dict[str, Any] | None]
    data: Mapped[dict[str, Any] | None]
    metrics: Mapped[dict[str, Any] | None]
    warnings: Mapped[list[Any] | None]
    problem: Mapped[dict[str, Any] | None]
    version_number: Mapped[int | None]
    parent_id: Mapped[int | None]
    trial_number: Mapped[int | None]
    searching: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    request_id: Mapped[str | None] = mapped_column(sa.String(128))
    traceparent: Mapped[str | None] = mapped_column(sa.String(64))
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class TrainingEvent(Base):
    """What happened in a training, in order: the learning curve, and what /events streams."""

    __tablename__ = "training_events"
    __table_args__ = (sa.UniqueConstraint("training_id", "seq"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    training_id: Mapped[int] = _reference("trainings.id")
    seq: Mapped[int]
    kind: Mapped[str] = mapped_column(sa.String(16))
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class TrainingState(Base):
    """What a training under way has learned so far, to go on from if its worker is lost; gone once it has ended.

    `fingerprint` is that of the data it learned from: on other data it begins anew.
    """

    __tablename__ = "training_states"
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    training_id: Mapped[int] = mapped_column(sa.ForeignKey("trainings.id", ondelete="CASCADE"), unique=True)
    attempt: Mapped[int]
    step: Mapped[int]
    fingerprint: Mapped[str] = mapped_column(sa.String(64))
    code_version: Mapped[str] = mapped_column(sa.String(32))
    sha256: Mapped[str] = mapped_column(sa.String(64))
    size_bytes: Mapped[int]
    data: Mapped[bytes] = deferred(mapped_column(sa.LargeBinary, nullable=False))
    created_at: Mapped[datetime]


class TrainingTotal(Base):
    """How many trainings ended so within so many seconds (inf: the rest), and their seconds. It only grows, whatever is deleted."""

    __tablename__ = "training_totals"
    __table_args__ = (sa.UniqueConstraint("status", "at_most_seconds"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(sa.String(16))
    at_most_seconds: Mapped[float]
    count: Mapped[int]
    seconds: Mapped[float]


class Version(Base):
    """What one training left: immutable, with all that is needed to say how it came about."""

    __tablename__ = "versions"
    __table_args__ = (sa.UniqueConstraint("model_id", "number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    model_id: Mapped[int] = _reference("models.id")
    dataset_id: Mapped[int] = _reference("datasets.id", index=True)
    training_id: Mapped[int | None] = _reference("trainings.id", ondelete="SET NULL", index=True)
    number: Mapped[int]
    horizon: Mapped[int]
    cutoff_step: Mapped[int]
    config: Mapped[dict[str, Any]]
    data: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    warnings: Mapped[list[Any]]
    code_version: Mapped[str] = mapped_column(sa.String(32))
    created_at: Mapped[datetime]


class Artifact(Base):
    """The bytes of one version (safetensors), read only when a forecaster is loaded or downloaded."""

    __tablename__ = "artifacts"
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    version_id: Mapped[int] = mapped_column(sa.ForeignKey("versions.id", ondelete="CASCADE"), unique=True)
    sha256: Mapped[str] = mapped_column(sa.String(64))
    size_bytes: Mapped[int]
    data: Mapped[bytes] = deferred(mapped_column(sa.LargeBinary))


class Alias(Base):
    """A name that moves: `champion` is what serves."""

    __tablename__ = "aliases"
    __table_args__ = (sa.UniqueConstraint("model_id", "name"), sa.Index("ix_aliases_name_updated_at", "name", "updated_at"))
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    model_id: Mapped[int] = _reference("models.id")
    version_id: Mapped[int] = _reference("versions.id", index=True)
    name: Mapped[str] = mapped_column(sa.String(64))
    updated_at: Mapped[datetime]


class BacktestWindow(Base):
    """One kept forecast of a version's backtest: float32 [horizon, 1 + Q], the actual (NaN: missing) before the quantiles."""

    __tablename__ = "backtest_windows"
    __table_args__ = (sa.UniqueConstraint("version_id", "series_id", "cutoff_step"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int] = _reference("workspaces.id")
    version_id: Mapped[int] = _reference("versions.id")
    series_id: Mapped[int] = _reference("series.id", index=True)
    cutoff_step: Mapped[int]
    data: Mapped[bytes]


class Worker(Base):
    """Who can train: seen again with every heartbeat. A worker serves all workspaces.

    `slots` is how many trainings it can hold at once, `owner` what stands in their rows; `clock_at` is what its own clock said at `seen_at`, which is the database's.
    """

    __tablename__ = "workers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(255), unique=True)
    devices: Mapped[list[Any]]
    owner: Mapped[str | None] = mapped_column(sa.String(255))
    code_version: Mapped[str | None] = mapped_column(sa.String(32))
    clock_at: Mapped[datetime | None]
    slots: Mapped[int] = mapped_column(server_default="1")
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime] = mapped_column(index=True)


class Scheduler(Base):
    """Who sweeps and keeps house beside the workers: seen again with every sweep."""

    __tablename__ = "schedulers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(255), unique=True)
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime] = mapped_column(index=True)


class Housekeeping(Base):
    """The one row of the last housekeeping: who did it, when, and what it removed. It is also what is claimed to do the next."""

    __tablename__ = "housekeeping"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str | None] = mapped_column(sa.String(255))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    removed: Mapped[dict[str, Any] | None]


for table in Base.metadata.tables.values():
    table.dialect_options["sqlite"]["autoincrement"] = True  # PostgreSQL's way: the id of a deleted row never comes again
