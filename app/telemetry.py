"""Logs that carry request_id and training_id through every process, and the numbers that an API process counts itself.

Several API processes behind one socket share a folder, and each keeps its numbers there in memory-mapped files named after its place
among them, not after its process: one that is started again goes on counting where the one before it stopped.
"""

import logging
import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import prometheus_client
import prometheus_client.values
import structlog
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import MultiProcessValue

from app.settings import Settings

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
PLACE = "ENGRAM_API_PLACE"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
"""What is counted by name; a client may invent others, and each label is memory for as long as the process lives."""

if SHARED_FOLDER in os.environ:
    _place = os.environ.get(PLACE) or str(os.getpid())
    prometheus_client.values.ValueClass = MultiProcessValue(lambda: _place)
prometheus_client.disable_created_metrics()

REQUESTS = Counter("engram_requests", "Requests answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "engram_request_seconds",
    "Seconds from the request's first byte to the answer's last.",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
FORECAST_SECONDS = Histogram(
    "engram_forecast_seconds",
    "Seconds of one call of the model.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
FORECAST_SERIES = Histogram(
    "engram_forecast_series", "Series forecast with one call of the model.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
)
CACHE_HITS = Counter("engram_forecaster_cache_hits", "Forecasts whose forecaster was loaded already.")
CACHE_MISSES = Counter("engram_forecaster_cache_misses", "Forecasts that had to load their forecaster.")
CACHE_BYTES = Gauge("engram_forecaster_cache_bytes", "Memory that loaded forecasters take.", multiprocess_mode="sum")
ANSWER_HITS = Counter("engram_answer_cache_hits", "Forecasts that were there already, finished.")
ANSWER_MISSES = Counter("engram_answer_cache_misses", "Forecasts that could have been kept and had to be made.")
ANSWER_BYTES = Gauge("engram_answer_cache_bytes", "Memory that finished forecasts take.", multiprocess_mode="sum")

KEY = re.compile(r"(engram_[a-z0-9]{9}_)[A-Za-z0-9_-]{43}")

log: Any = structlog.get_logger("engram")


def configure_logging(settings: Settings, part: str) -> None:
    """One form for our own lines and the libraries'; to stderr, so that stdout stays the user's."""

    def add_part(_logger: object, _method: str, event: Any) -> Any:
        event["part"] = part  # not a context variable: a thread begins without those of the one that started it
        return event

    shared: list[Any] = [
        add_part,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.CallsiteParameterAdder([structlog.processors.CallsiteParameter.PROCESS]),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Any] = (
        [
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
        if settings.log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last, mask_keys],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for noisy in ("uvicorn.access", "alembic", "kombu", "celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def share_numbers(folder: Path, place: int) -> dict[str, str]:
    """The environment of API process number `place` of several, all on one `folder` (best in memory, empty at their start).

    Two processes must not have the same place at the same time.
    """
    return {SHARED_FOLDER: str(folder), PLACE: str(place)}


def count_request(method: str, route: str, status: int, seconds: float) -> None:
    """`route` is a template, never a path: there are as many as the service has."""
    count, times = find_numbers(method if method in METHODS else "other", route, status)
    count.inc()
    times.observe(seconds)


@lru_cache(maxsize=4096)
def find_numbers(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """Those with these labels, which the library looks up under a lock."""
    return REQUESTS.labels(method, route, status), REQUEST_SECONDS.labels(method, route)


def collect_numbers() -> Iterable[Metric]:
    """Those of this process, or of all that share the folder."""
    numbers: Iterable[Metric] = (
        MultiProcessCollector(None).collect() if SHARED_FOLDER in os.environ else prometheus_client.REGISTRY.collect()
    )
    return numbers


def mask_keys(_logger: object, _method: str, line: Any) -> str:
    """No line shows a key, however it came there: in a path that somebody mistyped, in the words of a library's exception."""
    return KEY.sub(r"\1***", line)
