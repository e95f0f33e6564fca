"""Every knob, once. Read from the environment (prefix ENGRAM_), frozen, and passed: never a global. Listed in docs/settings.md."""

import ipaddress
import sys
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
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
    max_requests_at_once: int = Field(256, ge=1, description="Requests that one API process has at work at once.")
    max_json_bytes: int = Field(64 * 2**20, ge=1024, description="Largest JSON or NDJSON body, after decompression.")
    max_json_depth: int = Field(32, ge=8, description="How deep the JSON of a body may be nested.")
    max_rows: int = Field(20_000_000, ge=1, description="Most rows of one table of observations.")
    max_columns: int = Field(1000, ge=3, description="Most columns of one table of observations.")
    max_series_per_request: int = Field(200_000, ge=1, description="Most series in one request's observations.")
    max_unpacking_bytes: int = Field(
        4 * 2**30, ge=2**28, description="Memory of the process that unpacks a Parquet or Arrow table."
    )
    max_unpacking_seconds: float = Field(120.0, gt=0, description="How long that process may take over a table.")
    max_span_steps: int = Field(10_000_000, ge=1, description="Most steps that one series may span.")
    max_forecast_values: int = Field(20_000_000, ge=1, description="Most numbers (series x horizon x quantiles) in one answer.")
    max_answer_observations: int = Field(20_000_000, ge=1, description="Most observations in one answer; of JSON a twentieth.")
    max_horizon: int = Field(10_000, ge=1, description="Longest horizon that a training may ask for.")

    max_network_weights: int = Field(50_000_000, ge=1000, description="Most weights that the LSTM of a training may ask for.")
    max_streams: int = Field(100, ge=1, description="Event streams that one API process holds for one workspace at once.")

    allowed_hosts: str = Field(
        "", description="Names that the service may be called by, separated by commas; empty: see there."
    )
    max_connections: int = Field(2000, ge=1, description="Connections that one API process holds at once.")
    max_head_bytes: int = Field(65_536, ge=1024, description="Largest head of a request: its URL and headers.")
    max_head_seconds: float = Field(20.0, gt=0, description="How long a client may take to send the head of a request.")
    max_body_seconds: float = Field(600.0, gt=0, description="How long a client may take to send a body.")
    max_silence_seconds: float = Field(
        30.0, gt=0, description="How long a client may send nothing of its body, or take nothing of its answer."
    )

    max_key_requests_per_minute: int = Field(0, ge=0, description="Requests that one key may make in a minute; 0: no limit.")
    max_workspace_requests_per_minute: int = Field(
        0, ge=0, description="Requests that all keys of a workspace may make in a minute; 0: no limit."
    )
    max_workspace_observations: int = Field(0, ge=0, description="Observations that a workspace may store; 0: no limit.")
    max_workspace_series: int = Field(0, ge=0, description="Series that a workspace may store; 0: no limit.")
    max_workspace_bytes_per_day: int = Field(
        0, ge=0, description="Bytes of observations, decompressed, that a workspace may send in a day; 0: no limit."
    )
    max_workspace_trainings: int = Field(
        0, ge=0, description="Trainings of a workspace that may wait or run at once; 0: no limit."
    )
    max_workspace_running_trainings: int = Field(
        0, ge=0, description="Trainings of a workspace that may run at once; 0: no limit."
    )
    max_workspace_training_seconds_per_day: int = Field(
        0, ge=0, description="Seconds that a workspace's trainings may run in a day; 0: no limit."
    )

    worker_concurrency: int = Field(1, ge=1, description="Trainings that one worker runs at once.")
    training_threads: int = Field(1, ge=1, description="CPU threads of one training.")
    max_training_seconds: float = Field(3600.0, gt=0, description="Wall time after which a training is stopped and fails.")
    checkpoint_seconds: float = Field(30.0, gt=0, description="Pause between two checkpoints of a training.")
    max_training_bytes: int = Field(
        16 * 2**30,
        ge=0,
        description="Memory that a training on a CPU may take beyond what its process begins with; 0: no limit.",
    )
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
    kept_audit_days: float = Field(365.0, gt=0, description="How long the audit log is kept.")
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


def read_settings() -> Settings:
    """The environment's. A wrong one is a usage error, said in a line: SystemExit(2)."""
    try:
        return Settings()
    except ValidationError as error:
        for one in error.errors():
            name = "_".join(map(str, one["loc"])).upper()
            found = "" if name == "KEY_PEPPER" else f", found {one['input']!r}"  # a secret is not shown, a wrong one neither
            sys.stderr.write(f"engram: ENGRAM_{name}: {one['msg']}{found}; see docs/settings.md\n")
        raise SystemExit(2) from error
