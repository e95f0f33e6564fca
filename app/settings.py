"""Every knob, once. Read from the environment (prefix ENGRAM_), frozen, and passed: never a global. Listed in docs/settings.md."""

import ipaddress
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

EMBEDDED_SCHEME = "sqlitequeue"
"""Of the embedded queue's URL; kombu would split one with a plus sign."""


class Settings(BaseSettings):
    """Each unit stands in the name. An unset URL means the embedded engine under `data_dir`."""

    model_config = SettingsConfigDict(env_prefix="ENGRAM_", frozen=True, extra="ignore")

    data_dir: Path = Field(Path("var"), description="Folder of the embedded database and queue.")
    database_url: str = Field("", description="SQLAlchemy URL of the database; empty: SQLite under the data folder.")
    broker_url: str = Field("", description="Celery broker URL; empty: the embedded queue under the data folder.")
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API listens on; 0 takes a free one.")
    insecure: bool = Field(False, description="Serve without keys on an address that others can reach.")
    key_pepper: SecretStr = Field(SecretStr(""), description="Secret that keys are hashed with; empty: a file.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")
    log_format: Literal["console", "json"] = Field("console", description="How a log line is written.")

    max_body_bytes: int = Field(256 * 2**20, ge=1024, description="Largest request body, after decompression.")
    max_span_steps: int = Field(10_000_000, ge=1, description="Most steps that one series may span.")
    max_forecast_values: int = Field(20_000_000, ge=1, description="Most numbers (series x horizon x quantiles) in one answer.")
    max_horizon: int = Field(10_000, ge=1, description="Longest horizon that a training may ask for.")

    worker_concurrency: int = Field(1, ge=1, description="Trainings that one worker runs at once.")
    training_threads: int = Field(1, ge=1, description="CPU threads of one training.")
    max_training_seconds: float = Field(3600.0, gt=0, description="Wall time after which a training is stopped and fails.")
    lease_seconds: float = Field(30.0, gt=0, description="How long a claimed training is its worker's without a heartbeat.")
    sweep_seconds: float = Field(5.0, gt=0, description="Pause between two sweeps for expired leases and stale hints.")
    hint_seconds: float = Field(30.0, gt=0, description="Age at which the hint of a queued training is sent again.")
    max_attempts: int = Field(3, ge=1, description="Lost attempts after which a training fails with worker-lost.")
    grace_seconds: float = Field(10.0, gt=0, description="Time that a part gets to stop by itself before it is killed.")
    housekeeping_seconds: float = Field(3600.0, gt=0, description="Pause between the beginnings of two housekeepings.")
    kept_versions: int = Field(
        100, ge=1, description="Newest versions of a model that are kept, beside all that an alias points to."
    )
    kept_event_days: float = Field(90.0, ge=0, description="How long the learning curve of an ended training is kept.")
    broker_timeout_seconds: float = Field(1.0, gt=0, description="Longest wait for a connection to the broker.")

    forecaster_cache_bytes: int = Field(256 * 2**20, ge=0, description="Memory for loaded forecasters in one API process.")
    answer_cache_bytes: int = Field(64 * 2**20, ge=0, description="Memory for finished forecasts in one API process.")
    context_cache_bytes: int = Field(32 * 2**20, ge=0, description="Memory for the last values of series in one API process.")
    event_poll_seconds: float = Field(0.5, gt=0, description="Pause between two looks for new events of a training.")

    @field_validator("key_pepper")
    @classmethod
    def _check_pepper(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < 32:
            raise ValueError("expected at least 32 characters, as `openssl rand -hex 32` makes them")
        return value

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, values: dict[str, object]) -> dict[str, object]:
        """An empty variable is an unset one, as compose files write it."""
        return {name: value for name, value in values.items() if value != ""}

    @model_validator(mode="after")
    def _fill_urls(self) -> Self:
        folder = self.data_dir.absolute()
        if not self.database_url:
            object.__setattr__(self, "database_url", f"sqlite:///{folder / 'engram.db'}")
        if not self.broker_url:
            object.__setattr__(self, "broker_url", f"{EMBEDDED_SCHEME}:///{quote(str(folder / 'queue.db'))}")
        return self

    @property
    def is_queue_embedded(self) -> bool:
        """Whether the broker is the SQLite file, which has no options of Redis'."""
        return self.broker_url.startswith(f"{EMBEDDED_SCHEME}:")

    @property
    def broker_kind(self) -> str:
        """The engine without its address, which may hold a password: `embedded`, `redis`."""
        return "embedded" if self.is_queue_embedded else self.broker_url.partition(":")[0]

    @property
    def is_database_embedded(self) -> bool:
        """Whether the database is a SQLite file, which only this machine's processes share."""
        return self.database_url.startswith("sqlite:")

    @property
    def may_be_open(self) -> bool:
        """Whether the service may do without keys: where nobody else reaches it, or where that was asked for."""
        try:
            is_loopback = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            is_loopback = self.host == "localhost"
        return is_loopback or self.insecure
