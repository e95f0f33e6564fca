"""What can be told afterwards of one training, across processes: its log lines and its trace."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app import tracing
from app.database import Database
from app.tables import Training
from app.training.execution import Executor
from tests.conftest import Client
from tests.processes import Service, run_service

ROOT = Path(__file__).parent.parent
CSV_FILE = ROOT / "examples" / "air_passengers.csv"


class Collector:
    """An OTLP collector as small as can be: takes spans over HTTP and keeps them."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    found = {one.key: one.value.string_value or one.value.int_value for one in span.attributes}
                    self.spans.append(
                        {
                            "service": service,
                            "name": span.name,
                            "trace": span.trace_id.hex(),
                            "id": span.span_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "begin": span.start_time_unix_nano,
                            "end": span.end_time_unix_nano,
                            **found,
                        }
                    )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def service(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("var")
    environment = {
        "ENGRAM_DATA_DIR": str(folder),
        "ENGRAM_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with run_service(environment, folder) as service:
        service.serve()
        answer = service.post(
            "/v1/datasets/air/observations", content=CSV_FILE.read_bytes(), headers={"Content-Type": "text/csv"}
        )
        assert answer.status_code == 200
        yield service


def request_training(service: Service, request_id: str, **body: Any) -> dict[str, Any]:
    answer = service.post(
        "/v1/models/air/trainings", json={"dataset": "air", "horizon": 3, **body}, headers={"X-Request-ID": request_id}
    )
    assert answer.status_code == 202, answer.text
    return service.wait_for_end(answer.json()["id"])


def read_lines(service: Service, **fields: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in service.log if line.startswith("{")]
    return [line for line in lines if all(line.get(name) == value for name, value in fields.items())]


def test_one_trace_leads_from_the_request_to_the_end_of_the_training(service: Service, collector: Collector) -> None:
    training = request_training(service, "traced", fit={"max_steps": 20})
    assert training["status"] == "succeeded", training
    names = {"POST /v1/models/{model}/trainings", "training", "claim", "read", "fit", "finish"}

    def read_trace() -> dict[str, dict[str, Any]]:
        ours = [span for span in collector.spans if span.get("engram.training_id") == training["id"]]
        return {span["name"]: span for span in collector.spans if ours and span["trace"] == ours[0]["trace"]}

    service.wait_for(lambda: set(read_trace()) >= names, 10)
    spans = read_trace()
    assert set(spans) == names
    request = spans["POST /v1/models/{model}/trainings"]
    assert (request["service"], request["parent"]) == ("engram-api", "")
    assert (spans["training"]["service"], spans["training"]["parent"]) == ("engram-worker", request["id"])
    for name in ("claim", "read", "fit", "finish"):
        assert spans[name]["parent"] == spans["training"]["id"]
    order = [spans[name]["begin"] for name in ("claim", "read", "fit", "finish")]
    assert order == sorted(order)
    assert spans["fit"]["end"] - spans["fit"]["begin"] > 0.5 * (spans["training"]["end"] - spans["training"]["begin"])
    assert spans["training"]["engram.request_id"] == "traced"
    assert spans["training"]["engram.status"] == "succeeded"


def test_probes_are_not_traced(service: Service, collector: Collector) -> None:
    service.get("/metrics")
    service.get("/v1/models")
    service.wait_for(lambda: any(span["name"] == "GET /v1/models" for span in collector.spans), 10)
    assert not [span for span in collector.spans if "metrics" in span["name"] or "health" in span["name"]]


def test_log_lines_of_both_processes_carry_the_request_and_the_training(service: Service) -> None:
    training = request_training(service, "logged", fit={"max_steps": 20})
    service.wait_for(lambda: read_lines(service, event="training ended", training_id=training["id"]))
    lines = read_lines(service, training_id=training["id"])
    assert {(line["part"], line["event"], line["request_id"]) for line in lines} == {
        ("api", "training requested", "logged"),
        ("worker", "training started", "logged"),
        ("worker", "training ended", "logged"),
    }


def find_child(folder: Path) -> int | None:
    """The process of a training: the forkserver's child, which has its command line and environment."""
    forkservers: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                ours = f"ENGRAM_DATA_DIR={folder}".encode() in (entry / "environ").read_bytes()
                if ours and b"forkserver" in (entry / "cmdline").read_bytes():
                    forkservers[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    return next((child for child, parent in forkservers.items() if parent in forkservers), None)


def test_how_a_child_ended_badly_is_logged_under_both_names(service: Service) -> None:
    killed: set[int] = set()

    def kill() -> None:
        while len(killed) < 3:
            if (child := find_child(service.folder)) is not None and child not in killed:
                os.kill(child, signal.SIGKILL)
                killed.add(child)
            time.sleep(0.05)

    thread = threading.Thread(target=kill)
    thread.start()
    training = request_training(service, "failing", fit={"max_steps": 100_000})
    thread.join()
    assert training["status"] == "failed", training
    assert training["problem"]["type"] == "/problems/worker-lost"
    service.wait_for(lambda: len(read_lines(service, event="training's process was killed", training_id=training["id"])) == 3)
    for attempt, line in enumerate(read_lines(service, event="training's process was killed", training_id=training["id"]), 1):
        assert (line["part"], line["request_id"], line["level"]) == ("worker", "failing", "warning")
        assert line["attempt"] == attempt


def test_an_error_in_the_child_is_logged_whole_under_both_names(
    client: Client, executor: Executor, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    client.post_air()
    answer = client.post(
        "/v1/models/air/trainings", json={"dataset": "air", "horizon": 3}, headers={"X-Request-ID": "crashing"}
    ).json()
    with database.write() as session:
        row = session.scalars(sa.select(Training)).one()
        row.request = {**row.request, "fit": {**row.request["fit"], "learning_rate": "fast"}}
        session.commit()
    assert executor.execute() == answer["id"]
    lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]  # as structlog hands them to logging
    (line,) = [line for line in lines if line["event"] == "training crashed"]
    assert (line["training_id"], line["request_id"]) == (answer["id"], "crashing")
    assert "app/lstm/" in line["traceback"]
    assert client.get(f"/v1/trainings/{answer['id']}").json()["problem"]["type"] == "/problems/training-failed"


def test_without_the_variables_nothing_is_imported() -> None:
    code = (
        "import sys, app.main, workers.celery_app, app.tracing as t; t.configure_tracing('api'); "
        "assert t.current_traceparent() is None; "
        "sys.exit(any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')) for name in sys.modules))"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean, check=False).returncode == 0


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, "engram[otel]"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}, ""),
    ],
)
def test_traces_that_cannot_be_exported_are_said_and_stop_nothing(environment: dict[str, str], said: str) -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; sys.modules['opentelemetry.sdk.trace'] = None\n"
        "from app import tracing\ntracing.configure_tracing('api')\nwith tracing.span('x'): print('went on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert "went on" in done.stdout
    assert ("traces are not exported" in done.stdout) == bool(said)
    assert said in done.stdout


def test_what_is_off_costs_next_to_nothing() -> None:
    with tracing.span("x"):
        assert tracing.current_traceparent() is None
