"""Alive, ready, counted: what whoever runs the service asks."""

import re
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

import migrations
from app import __version__, housekeeping, monitoring
from app.database import Database, utc_now
from app.settings import Settings
from app.tables import Worker
from app.training import claims, presence
from app.training.execution import Executor
from tests.conftest import PEPPER, Client


def test_live_and_ready(client: Client) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ready", "database": "ready", "broker": "reachable", "workers": 0}


def test_the_docs_come_from_here_and_from_no_other_host(client: Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) >= 2
    for link in links:
        assert link.startswith("/"), link
        assert client.get(link).status_code == 200


def test_the_document_says_whether_this_very_service_asks_for_keys(settings: Settings) -> None:
    """An open one names the keys' scopes, and beside each an empty requirement, which is OpenAPI's way to say that none is needed."""
    with Client(settings.model_copy(update={"key_pepper": Settings(key_pepper=PEPPER).key_pepper})) as client:

        def list_needs() -> list[list[dict[str, list[str]]]]:
            paths = client.get("/openapi.json").json()["paths"]
            return [one["security"] for path in paths.values() for one in path.values() if "security" in one]

        while_open = list_needs()
        assert client.get("/v1/datasets").status_code == 200
        assert client.post("/v1/keys", json={"name": "first", "scopes": ["admin"]}).status_code == 201
        needs = list_needs()
        assert client.get("/v1/datasets").status_code == 401
    assert len(needs) > 30
    assert all(len(one) == 1 and list(one[0]) == ["key"] for one in needs)
    assert while_open == [[{}, *one] for one in needs]


def test_an_empty_database_is_live_and_not_ready(tmp_path: Path) -> None:
    with Client(Settings(data_dir=tmp_path)) as client:
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.headers["retry-after"]) == (503, "5")
        assert "migrate" in ready.json()["database"]


def test_a_database_that_is_away_is_503_with_retry_after(tmp_path: Path) -> None:
    with Client(Settings(data_dir=tmp_path, database_url="postgresql://127.0.0.1:9/none")) as client:
        for path in ("/v1/datasets", "/v1/models/a", "/v1/trainings", "/v1/system"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
            assert answer.headers["retry-after"] == "5"
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
        assert client.get("/openapi.json").json()["paths"]["/v1/datasets"]["get"]["security"] == [{"key": ["read"]}]


def test_a_broker_that_is_away_is_named_and_refuses_nothing(database_url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database_url, broker_url="redis://127.0.0.1:9/0")
    with Client(settings) as client:
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["broker"]) == (200, "away: trainings wait")
        client.post_air()
        assert client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 3}).status_code == 202


def test_system_names_the_workers_seen_of_late(client: Client, database: Database) -> None:
    with database.write() as session:
        presence.register_worker(session, "here", ("cpu", "cuda"), "boot/1/1")
        presence.register_worker(session, "gone", ("cpu",), "boot/2/1")
        session.execute(sa.update(Worker).where(Worker.name == "gone").values(seen_at=utc_now() - timedelta(hours=1)))
        session.commit()
    client.post_air()
    client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 3})
    system = client.get("/v1/system").json()
    assert [worker["name"] for worker in system["workers"]] == ["here"]
    assert system["devices"] == ["cpu", "cuda"]
    assert system["queue_depth"] == system["trainings"]["queued"] == 1
    assert system["workers"][0] | {"started_at": "", "seen_at": ""} == {
        "name": "here",
        "devices": ["cpu", "cuda"],
        "version": __version__,
        "trainings": 0,
        "started_at": "",
        "seen_at": "",
    }
    assert [(queue["device"], queue["depth"]) for queue in system["queues"]] == [("auto", 1), ("cpu", 0), ("cuda", 0)]
    assert system["queues"][0]["oldest_seconds"] < 60
    assert system["queues"][1]["oldest_seconds"] == 0
    assert (system["database"], system["broker"], system["revision"]) == (database.dialect, "embedded", migrations.head())


def test_system_does_not_count_all_that_ended_for_everybody_who_asks(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.post_air()
    ids = [client.post(f"/v1/models/m{n}/trainings", json={"dataset": "air", "horizon": 3}).json()["id"] for n in range(2)]
    seen = []
    for kept_times, training in zip((0, 1e9), ids, strict=True):
        monkeypatch.setattr(monitoring, "KEPT_TIMES", kept_times)
        client.get("/v1/system")
        client.post(f"/v1/trainings/{training}/cancel")
        trainings = client.get("/v1/system").json()["trainings"]
        seen.append((trainings["queued"], trainings["cancelled"]))
    assert seen == [(1, 1), (0, 1)], "what waits is of now, what ended may be of a moment ago"


def test_system_says_which_worker_runs_what(client: Client, database: Database, executor: Executor) -> None:
    client.post_air()
    client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 3})
    with database.write() as session:
        presence.register_worker(session, "here", ("cpu",), executor.name)
        presence.register_worker(session, "idle", ("cpu",), "boot/2/1")
        claims.claim(session, client.app.state.settings, executor.name, ("cpu",))
        session.commit()
    workers = client.get("/v1/system").json()["workers"]
    assert {worker["name"]: worker["trainings"] for worker in workers} == {"here": 1, "idle": 0}


def test_system_names_the_schedulers_and_what_the_last_housekeeping_removed(
    client: Client, database: Database, settings: Settings
) -> None:
    system = client.get("/v1/system").json()
    assert system["schedulers"] == []
    assert system["housekeeping"] == {"started_at": None, "finished_at": None, "removed": None}
    with database.write() as session:
        presence.register_scheduler(session, "beat")
        presence.register_worker(session, "gone", ("cpu",), "boot/1/1")
        session.execute(sa.update(Worker).values(seen_at=utc_now() - timedelta(days=2)))
        session.commit()
    housekeeping.keep_house(database, settings, "me", threading.Event())
    system = client.get("/v1/system").json()
    assert [one["name"] for one in system["schedulers"]] == ["beat"]
    assert system["housekeeping"]["finished_at"] is not None
    assert system["housekeeping"]["removed"]["workers"] == 1
