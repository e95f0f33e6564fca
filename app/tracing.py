"""OpenTelemetry traces, when its standard OTEL_* variables ask for them and `engram[otel]` is installed; else nothing is imported.

One trace leads from the request, whose span is FastAPI's own, into the training: the row carries the traceparent, since the row is the
truth and the message a hint. The child has no exporter: its supervisor times it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app import __version__
from app.telemetry import log

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"

_tracer: Any = None
"""OpenTelemetry's, once it was asked for. It keeps its provider as a global as well: a process has one."""


def is_wanted() -> bool:
    """Whether the environment names a collector, or the exporter that has one by default, and does not forbid it."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    is_named = exporter == "otlp" or (not exporter and any(os.environ.get(name) for name in ENDPOINTS))
    return is_named and os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true"


def configure_tracing(part: str) -> None:
    """Begins to export the spans of this process (`api`, `worker`), once, at its start. What is left is sent when it ends."""
    global _tracer
    if not is_wanted():
        return
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), HTTP)
    if protocol != HTTP:
        log.warning(
            "traces are not exported: only http/protobuf is spoken; set OTEL_EXPORTER_OTLP_PROTOCOL to it", found=protocol
        )
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.warning("traces are not exported: the extra is missing; pip install 'engram[otel]'", error=str(error))
        return
    if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        os.environ.setdefault("OTEL_SERVICE_NAME", f"engram-{part}")
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _tracer = trace.get_tracer("engram", __version__)


def current_traceparent() -> str | None:
    """Where the caller stands in its trace, as W3C writes it; None without one."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def follow(name: str, traceparent: str | None, **attributes: str | int | None) -> Iterator[None]:
    """A span below one of another process; the first of a new trace if there is none."""
    if _tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent} if traceparent else {})
    known = {f"engram.{key}": value for key, value in attributes.items() if value is not None}
    with _tracer.start_as_current_span(name, context=context, kind=SpanKind.CONSUMER, attributes=known):
        yield


@contextmanager
def span(name: str) -> Iterator[None]:
    """A span below the current one."""
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name):
        yield


def record(name: str, began_ns: int) -> None:
    """A span that began at `began_ns` (time.time_ns) and ends now: for what was done before it was known to which trace it belongs."""
    if _tracer is not None:
        _tracer.start_span(name, start_time=began_ns).end()


def note(**attributes: str) -> None:
    """Adds to the current span."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes({f"engram.{key}": value for key, value in attributes.items()})
