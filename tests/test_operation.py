"""Alive, ready, counted: what whoever runs the service asks."""

import re
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from app.database import Database, utc_now
from app.settings import Settings
from app.tables import Worker
from app.training import claims
from tests.conftest import Client


def test_live_and_ready(client: Client) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ready", "database": "ready", "broker": "reachable", "workers": 0}


def test_the_docs_come_from_here_and_from_no_other_host(client: Client) -> None:
    assert client.get("/").headers["location"] == "/docs"
    page = client.get("/docs")
    assert page.status_code == 200
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) >= 2
    for link in links:
        assert link.startswith("/"), link
        assert client.get(link).status_code == 200


def test_an_empty_database_is_live_and_not_ready(tmp_path: Path) -> None:
    with Client(Settings(data_dir=tmp_path)) as client:
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.headers["retry-after"]) == (503, "5")
        assert "migrate" in ready.json()["database"]


def test_a_database_that_is_away_is_503_with_retry_after(tmp_path: Path) -> None:
    with Client(Settings(data_dir=tmp_path, database_url="postgresql://127.0.0.1:9/none")) as client:
        for path in ("/v1/datasets", "/v1/models/a", "/v1/trainings", "/metrics"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
            assert answer.headers["retry-after"] == "5"
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200


def test_a_broker_that_is_away_is_named_and_refuses_nothing(database_url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database_url, broker_url="redis://127.0.0.1:9/0")
    with Client(settings) as client:
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["broker"]) == (200, "away: trainings wait")
        client.post_air()
        assert client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 3}).status_code == 202


def test_system_names_the_workers_seen_of_late(client: Client, database: Database) -> None:
    with database.write() as session:
        claims.register_worker(session, "here", ("cpu", "cuda"), "boot/1/1")
        claims.register_worker(session, "gone", ("cpu",), "boot/2/1")
        session.execute(sa.update(Worker).where(Worker.name == "gone").values(seen_at=utc_now() - timedelta(hours=1)))
        session.commit()
    client.post_air()
    client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 3})
    system = client.get("/v1/system").json()
    assert [worker["name"] for worker in system["workers"]] == ["here"]
    assert system["devices"] == ["cpu", "cuda"]
    assert system["queue_depth"] == system["trainings"]["queued"] == 1


def test_metrics_count_requests_by_route_and_trainings_by_status(client: Client) -> None:
    client.post_air()
    client.get("/v1/models/one")
    client.get("/v1/models/two")
    text = client.get("/metrics").text
    counted = [line for line in text.splitlines() if line.startswith("engram_requests_total") and 'status="404"' in line]
    assert any('route="/v1/models/{model}"' in line for line in counted), counted
    assert not any("models/one" in line for line in text.splitlines())
    assert 'engram_trainings{status="queued"} 0' in text
