"""/metrics: what is counted, by which labels, from which process, and what it costs."""

import math
import os
import signal
import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from app import monitoring
from app.database import Database, database_now, utc_now
from app.monitoring import DatabaseNumbers
from app.settings import Settings
from app.tables import Alias, Training, Worker
from app.training import claims, presence, service
from app.training.execution import Executor
from tests.conftest import QUICK, Client
from tests.processes import Service, run_service

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read_samples(text: str) -> Samples:
    samples = {}
    for family in parse(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"twice: {key}"
            samples[key] = sample.value
    return samples


def scrape(client: Client | Service) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return read_samples(answer.text)


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), math.nan)


def test_requests_are_counted_by_route_and_never_by_path(client: Client) -> None:
    before = scrape(client)
    labels = {"method": "GET", "route": "/v1/models/{model}"}
    for name in ("one", "two", "three"):
        client.get(f"/v1/models/{name}")
    after = scrape(client)
    counted = ("engram_requests_total", frozenset({**labels, "status": "404"}.items()))
    timed = ("engram_request_seconds_count", frozenset(labels.items()))
    assert [after[key] - before.get(key, 0) for key in (counted, timed)] == [3, 3]
    assert not [key for key in after if any(part in ("/v1/models/one", "one") for _, part in key[1])]


def test_what_a_client_invents_makes_no_new_series(client: Client) -> None:
    client.request("BREW1", "/v1/datasets")
    client.get("/nowhere/1")
    scrape(client)
    before = set(scrape(client))
    for number in range(2, 30):
        client.request(f"BREW{number}", "/v1/datasets")
        client.get(f"/nowhere/{number}")
    assert {key for key in set(scrape(client)) - before if key[0].startswith("engram")} == set()


def test_the_queue_is_told_by_device_with_its_oldest(client: Client, database: Database) -> None:
    client.post_air()
    for horizon, device in enumerate(("auto", "cpu", "cpu"), start=3):
        client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": horizon, "device": device})
    with database.write() as session:
        past = database_now(session) - timedelta(seconds=100)
        session.execute(sa.update(Training).where(Training.device_wanted == "cpu").values(created_at=past))
        session.commit()
    samples = scrape(client)
    assert {device: value(samples, "engram_queue_depth", device=device) for device in ("auto", "cpu", "cuda")} == {
        "auto": 1,
        "cpu": 2,
        "cuda": 0,
    }
    assert value(samples, "engram_queue_oldest_seconds", device="cpu") == pytest.approx(100, abs=10)
    assert value(samples, "engram_queue_oldest_seconds", device="cuda") == 0


def test_workers_are_told_with_what_they_run_and_a_dead_one_for_a_while(client: Client, database: Database) -> None:
    client.post_air()
    client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 3})
    settings = client.app.state.settings
    with database.write() as session:
        for name, age in (("here", 0), ("dead", 600), ("forgotten", 10_000)):
            presence.register_worker(session, name, ("cuda", "cpu"), f"boot/{name}")
            seen_at = database_now(session) - timedelta(seconds=age)
            session.execute(sa.update(Worker).where(Worker.name == name).values(seen_at=seen_at))
        assert claims.claim(session, settings, "boot/here", ("cuda", "cpu")) is not None
        session.commit()
    samples = scrape(client)
    assert value(samples, "engram_workers", device="cpu") == value(samples, "engram_workers", device="cuda") == 1
    assert value(samples, "engram_worker_trainings", worker="here") == 1
    assert value(samples, "engram_worker_trainings", worker="dead") == 0
    assert value(samples, "engram_worker_seen_seconds", worker="dead") == pytest.approx(600, abs=10)
    assert math.isnan(value(samples, "engram_worker_seen_seconds", worker="forgotten"))
    assert value(samples, "engram_expired_leases") == 0
    with database.write() as session:
        session.execute(sa.update(Training).values(lease_expires_at=utc_now() - timedelta(seconds=60)))
        session.commit()
    assert value(scrape(client), "engram_expired_leases") == 1


def test_trainings_are_counted_by_how_they_ended(client: Client, database: Database) -> None:
    client.post_air()
    for horizon in (3, 4, 5):
        client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": horizon})
    with database.write() as session:
        for seconds, training in zip((0.5, 4.0, 20_000.0), session.scalars(sa.select(Training)).all(), strict=True):
            training.started_at = database_now(session) - timedelta(seconds=seconds)
            service.end(session, training, "succeeded" if seconds < 10 else "failed")
        session.commit()
    samples = scrape(client)
    bounds = ("1.0", "2.5", "5.0", "3600.0", "+Inf")
    assert [value(samples, "engram_training_seconds_bucket", status="succeeded", le=le) for le in bounds] == [1, 1, 2, 2, 2]
    assert [value(samples, "engram_training_seconds_bucket", status="failed", le=le) for le in bounds] == [0, 0, 0, 0, 1]
    assert value(samples, "engram_training_seconds_count", status="cancelled") == 0
    assert value(samples, "engram_training_seconds_sum", status="succeeded") == pytest.approx(4.5, abs=1)
    client.delete("/v1/models/air")
    assert value(scrape(client), "engram_training_seconds_count", status="succeeded") == 2


def test_models_are_told_with_the_scores_of_the_version_that_serves(client: Client, executor: Executor) -> None:
    client.post_air()
    trained = client.train(executor, "air", dataset="air", horizon=6, **QUICK)
    assert trained["status"] == "succeeded"
    before = scrape(client)
    for horizon in (6, 5, 5):
        assert client.post("/v1/models/air/forecasts", json={"series": ["air"], "horizon": horizon}).status_code == 200
    samples = scrape(client)
    labels = {"workspace": "default", "model": "air"}
    assert value(samples, "engram_model_version", **labels) == 1
    assert value(samples, "engram_model_skill", **labels) == pytest.approx(trained["metrics"]["skill"])
    assert trained["metrics"]["backtest"]["coverage"]
    for level, share in trained["metrics"]["backtest"]["coverage"].items():
        assert value(samples, "engram_model_coverage", **labels, level=level) == pytest.approx(share)
    assert value(samples, "engram_model_created_timestamp_seconds", **labels) == pytest.approx(time.time(), abs=120)
    for name, more in (
        ("engram_forecaster_cache_hits_total", 1),
        ("engram_forecaster_cache_misses_total", 1),
        ("engram_forecast_seconds_count", 2),
        ("engram_forecast_series_sum", 2),
        ("engram_answer_cache_hits_total", 1),
        ("engram_answer_cache_misses_total", 2),
    ):
        assert value(samples, name) - value(before, name) == more, name
    assert value(samples, "engram_forecaster_cache_bytes") > 10_000


def test_a_bounded_number_of_models_is_told(client: Client, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "MAX_MODELS", 2)
    client.post_air()
    now = utc_now()
    with database.write() as session:
        for age, name in enumerate(("newest", "middle", "oldest")):
            training, _ = service.request(
                session,
                1,
                name,
                {**DEFAULTS, "dataset": "air", "horizon": 3},
                repeat=False,
                max_horizon=9,
                max_network_weights=10**9,
                request_id="",
            )
            version = monitoring.Version(
                workspace_id=1,
                model_id=training.model_id,
                dataset_id=training.dataset_id,
                number=1,
                horizon=3,
                cutoff_step=1,
                config={},
                data={},
                metrics={},
                warnings=[],
                code_version="",
                created_at=now,
            )
            session.add(version)
            session.flush()
            at = now - timedelta(days=age)
            session.add(Alias(workspace_id=1, model_id=version.model_id, version_id=version.id, name="champion", updated_at=at))
        session.commit()
    told = {dict(labels)["model"] for name, labels in scrape(client) if name == "engram_model_version"}
    assert told == {"newest", "middle"}
    assert math.isnan(value(scrape(client), "engram_model_skill", workspace="default", model="newest"))


def test_without_the_database_it_says_so_and_what_it_knows(tmp_path: Path) -> None:
    with Client(Settings(data_dir=tmp_path, database_url="postgresql://127.0.0.1:9/none")) as client:
        samples = scrape(client)
        assert value(samples, "engram_database_up") == 0
        assert not [name for name, _ in samples if name.startswith(("engram_queue", "engram_worker", "engram_training"))]
        assert [name for name, _ in samples if name == "engram_requests_total"]


def test_a_database_that_is_silent_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "PATIENCE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = Database(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/none")
        numbers = DatabaseNumbers(database, Settings(data_dir=tmp_path))
        started = time.monotonic()
        for _ in range(3):
            assert [sample.value for metric in numbers.collect(1) for sample in metric.samples] == [0]
        assert time.monotonic() - started < 3
        silent.settimeout(0)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()  # three scrapes shared one attempt
    database.close()


def test_openmetrics_is_spoken_to_who_asks_for_it(client: Client) -> None:
    accept = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    answer = client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert {family.name for family in parse_openmetrics(answer.text)} >= {"engram_requests", "engram_queue_depth"}


def test_the_queries_of_a_scrape_use_indexes(database: Database, settings: Settings) -> None:
    """A table without statistics of its own is planned as if it were large; those with an owner are read by it."""
    asked: list[str] = []

    @sa.event.listens_for(database.engine, "before_cursor_execute")
    def note(_conn: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if not statement.startswith("EXPLAIN") and "trainings" in statement:
            asked.append(statement)

    with database.read() as session:
        list(monitoring.collect(session, settings, 1))
    sa.event.remove(database.engine, "before_cursor_execute", note)
    assert len(asked) == 3
    if database.dialect != "sqlite":
        return  # PostgreSQL plans by the rows that there are: a sequence scan of none is right
    with database.read() as session:
        for statement in asked:
            plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", ("x",) * statement.count("?")).all()
            assert not [row for row in plan if row[3].startswith("SCAN trainings") and "USING INDEX" not in row[3]], plan


def list_children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_processes_behind_one_socket_give_their_sum_and_keep_it_through_a_restart(tmp_path: Path) -> None:
    with run_service({"ENGRAM_DATA_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}, tmp_path) as service_:
        assert service_.start("migrate").wait(60) == 0
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        service_.http.base_url = f"http://127.0.0.1:{port}"
        service_.http.headers["Connection"] = "close"  # each request may meet either process
        supervisor = service_.start("api", "--processes=2", f"--port={port}")
        service_.wait_for(lambda: len(list(tmp_path.glob("engram-numbers-*/counter_*"))) == 2)
        service_.wait_for(lambda: service_.get("/health/ready").status_code == 200)
        for number in range(40):
            assert service_.get(f"/v1/models/{number}").status_code == 404
        labels = {"method": "GET", "route": "/v1/models/{model}", "status": "404"}
        assert [value(scrape(service_), "engram_requests_total", **labels) for _ in range(6)] == [40] * 6
        before = list_children(supervisor.pid)
        os.kill(before[0], signal.SIGKILL)
        service_.wait_for(lambda: len(list_children(supervisor.pid)) == 2 and list_children(supervisor.pid) != before)
        assert value(scrape(service_), "engram_requests_total", **labels) == 40
        for number in range(20):
            assert service_.get(f"/v1/models/{number}").status_code == 404
        service_.wait_for(lambda: value(scrape(service_), "engram_requests_total", **labels) == 60)
        assert len(list(tmp_path.glob("engram-numbers-*/counter_*"))) == 2
        supervisor.terminate()
        assert supervisor.wait(20) == 0
    assert not list(tmp_path.glob("engram-numbers-*"))


DEFAULTS = {
    "series": None,
    "series_prefix": None,
    "end": None,
    "context_length": None,
    "season_lengths": None,
    "quantile_levels": [0.1, 0.5, 0.9],
    "network": {},
    "fit": {},
    "backtest": {},
    "device": "auto",
    "promote": "never",
}
