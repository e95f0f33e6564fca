"""What a workspace may take, over HTTP, on both databases; and that a service without limits counts nothing."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app import quotas
from app.database import Database, database_now, utc_now
from app.keys import service
from app.protection import counting
from app.security import PREFIX_LENGTH, make_pepper
from app.settings import Settings
from app.tables import ApiKey, Series, Training, Workspace, WorkspaceDay
from app.training import claims, searches
from tests.conftest import AIR_CSV, PEPPER, Client

CSV = {"Content-Type": "text/csv"}
TRAIN = {"dataset": "air", "horizon": 3}


@contextmanager
def limited(settings: Settings, **limits: Any) -> Iterator[Client]:
    with Client(settings.model_copy(update=limits)) as client:
        yield client


def post(client: Client, series: str, days: int) -> Any:
    rows = "series,timestamp,value\n" + "".join(f"{series},2024-01-{day:02},{day}\n" for day in range(1, days + 1))
    return client.post("/v1/datasets/d/observations", content=rows, headers=CSV)


def told(answer: Any) -> tuple[int, str, str]:
    return answer.status_code, answer.json()["type"].rpartition("/")[2], answer.json().get("quota", "")


def test_requests_are_counted_for_the_key_and_for_the_workspace(settings: Settings, database: Database) -> None:
    settings = settings.model_copy(update={"key_pepper": Settings(key_pepper=PEPPER).key_pepper})
    with database.write() as session:
        pepper = make_pepper(settings)
        keys = [service.create_key(session, pepper, 1, name="k", scopes=["read"], expires_at=None)[1] for _ in range(3)]
        other = service.create_workspace(session, "other")
        keys.append(service.create_key(session, pepper, other.id, name="k", scopes=["read"], expires_at=None)[1])
        session.commit()

    def ask(client: Client, key: str) -> Any:
        return client.get("/v1/datasets", headers={"Authorization": f"Bearer {key}"})

    with limited(settings, max_key_requests_per_minute=3, max_workspace_requests_per_minute=7) as client:
        answer = ask(client, keys[0])
        assert answer.headers["ratelimit-policy"] == '"key";q=3;w=60, "workspace";q=7;w=60'
        assert answer.headers["ratelimit"] == '"key";r=2;t=20, "workspace";r=6;t=9'
        assert [ask(client, keys[0]).status_code for _ in range(3)] == [200, 200, 429]
        assert [ask(client, keys[1]).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert [ask(client, keys[2]).status_code for _ in range(2)] == [200, 429]  # the workspace's seventh was its last
        refused = ask(client, keys[2])
        assert told(refused)[:2] == (429, "rate-limited")
        assert "this workspace may make 7" in refused.json()["detail"]
        assert 1 <= int(refused.headers["retry-after"]) <= 9
        assert '"workspace";r=0' in refused.headers["ratelimit"]
        assert ask(client, keys[3]).status_code == 200
        assert client.get("/health/live").status_code == 200
        assert "ratelimit" not in client.get("/health/live").headers
        with database.write() as session:
            session.execute(sa.update(Workspace).where(Workspace.name == "other").values(limits={"requests_per_minute": 0}))
            session.commit()
        assert ask(client, keys[3]).headers["ratelimit-policy"] == '"key";q=3;w=60'


class _Nobody:
    """Stands where something was that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")


@pytest.fixture
def two_keys(settings: Settings, database: Database) -> Iterator[tuple[Client, list[str]]]:
    """A service where each key has two requests a minute, and two keys that may read."""
    settings = settings.model_copy(update={"key_pepper": Settings(key_pepper=PEPPER).key_pepper})
    with database.write() as session:
        pepper = make_pepper(settings)
        keys = [service.create_key(session, pepper, 1, name="k", scopes=["read"], expires_at=None)[1] for _ in range(2)]
        session.commit()
    with limited(settings, max_key_requests_per_minute=2) as client:
        yield client, keys


def ask_with(client: Client, key: str, path: str = "/v1/datasets") -> Any:
    return client.get(path, headers={"Authorization": f"Bearer {key}"})


def test_a_refusal_is_repeated_from_memory(two_keys: tuple[Client, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood beyond its limit asks neither the database nor the counter."""
    monkeypatch.setattr(counting, "REMEMBER_SECONDS", 20.0)
    client, (loud, quiet) = two_keys
    state = client.app.state
    gate, rates = state.gate, state.rates
    assert [ask_with(client, loud).status_code for _ in range(3)] == [200, 200, 429]
    state.gate = state.rates = _Nobody()
    again = ask_with(client, loud)
    assert told(again)[:2] == (429, "rate-limited")
    assert again.headers["ratelimit-policy"] == '"key";q=2;w=60'
    assert int(again.headers["retry-after"]) > 1
    for path in ("/health/live", "/static/nothing"):
        assert "ratelimit" not in ask_with(client, loud, path).headers
    assert ask_with(client, quiet).status_code == 500, "who is not remembered is asked for, here of nobody"
    state.gate, state.rates = gate, rates
    assert ask_with(client, quiet).status_code == 200


def test_a_refusal_is_remembered_for_a_second_at_most(two_keys: tuple[Client, list[str]], database: Database) -> None:
    """A key that was revoked is told so, though its next token comes later."""
    client, (loud, _) = two_keys
    assert [ask_with(client, loud).status_code for _ in range(3)] == [200, 200, 429]
    with database.write() as session:
        session.execute(sa.update(ApiKey).where(ApiKey.prefix == loud[:PREFIX_LENGTH]).values(revoked_at=utc_now()))
        session.commit()
    time.sleep(counting.REMEMBER_SECONDS)
    assert ask_with(client, loud).status_code == 401


def test_a_flood_on_many_connections_is_answered_no_faster_than_on_a_few(
    two_keys: tuple[Client, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "GAP_SECONDS", 0.2)
    monkeypatch.setattr(counting, "MAX_PAUSE_SECONDS", 10.0)
    client, (loud, quiet) = two_keys
    statuses: list[int] = []
    assert [ask_with(client, loud).status_code for _ in range(3)] == [200, 200, 429]
    threads = [threading.Thread(target=lambda: statuses.append(ask_with(client, loud).status_code)) for _ in range(15)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    assert ask_with(client, quiet).status_code == 200
    assert len(statuses) < len(threads), "another key waits for nobody's refusals"
    for thread in threads:
        thread.join()
    assert statuses == [429] * len(threads)
    assert time.monotonic() - began > 0.2 * len(threads)


def test_stored_observations_and_series_end_at_the_quota(settings: Settings, database: Database) -> None:
    with limited(settings, max_workspace_observations=20, max_workspace_series=2) as client:
        assert post(client, "a", 10).status_code == 200
        refused = post(client, "b", 11)
        assert told(refused) == (409, "workspace-full", "observations")
        assert (refused.json()["limit"], refused.json()["found"]) == (20, 21)
        assert post(client, "b", 5).status_code == 200
        assert told(post(client, "c", 2)) == (409, "workspace-full", "series")
        assert post(client, "a", 10).json()["unchanged"] == 10
        client.delete("/v1/datasets/d/observations?series=b")
        assert post(client, "c", 10).status_code == 200
        with database.write() as session:
            session.execute(sa.update(Workspace).values(limits={"series": 3, "observations": 0}))
            session.commit()
        assert post(client, "b", 31).status_code == 200


def test_two_writers_at_once_do_not_get_through_where_one_may(settings: Settings, database: Database) -> None:
    answers: list[int] = []
    with limited(settings, max_workspace_observations=25) as client:
        post(client, "a", 10)
        threads = [threading.Thread(target=lambda n=n: answers.append(post(client, f"s{n}", 10).status_code)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(answers) == [200, 409, 409, 409]
    with database.read() as session:
        assert session.scalar(sa.select(sa.func.sum(Series.count))) == 20


def test_bytes_of_a_day_end_at_the_quota_and_what_is_refused_costs_none(settings: Settings, database: Database) -> None:
    with limited(settings, max_workspace_bytes_per_day=400) as client:
        assert post(client, "a", 10).status_code == 200
        assert post(client, "a", 10).status_code == 200  # sent again, it was sent all the same
        refused = post(client, "a", 10)
        assert told(refused) == (429, "quota-used-up", "bytes_per_day")
        assert 0 < int(refused.headers["retry-after"]) <= 86_400
        assert post(client, "a", 1).status_code == 200
        with database.write() as session:
            session.execute(sa.update(WorkspaceDay).values(day=database_now(session).date() - timedelta(days=1)))
            session.commit()
        assert post(client, "a", 10).status_code == 200


def test_trainings_at_once_and_their_seconds_of_a_day_end_at_the_quota(settings: Settings, database: Database) -> None:
    with limited(settings, max_workspace_trainings=2) as client:
        client.post("/v1/datasets/air/observations", content=AIR_CSV.read_bytes(), headers=CSV)
        queued = [client.post(f"/v1/models/m{n}/trainings", json=TRAIN) for n in range(3)]
        assert [answer.status_code for answer in queued] == [202, 202, 429]
        assert told(queued[2]) == (429, "quota-used-up", "trainings")
        assert queued[2].headers["retry-after"] == str(quotas.TRAINING_RETRY_SECONDS)
        client.post(f"/v1/trainings/{queued[0].json()['id']}/cancel")
        assert client.post("/v1/models/m3/trainings", json=TRAIN).status_code == 202
    with limited(settings, max_workspace_training_seconds_per_day=100) as client:
        with database.write() as session:
            quotas.charge_training(session, 1, database_now(session), 60.0)
            session.commit()
        assert client.post("/v1/models/m4/trainings", json=TRAIN).status_code == 202
        with database.write() as session:
            began = database_now(session) - timedelta(seconds=41)
            session.execute(
                sa.update(Training)
                .where(Training.public_id == queued[1].json()["id"])
                .values(status="running", started_at=began)
            )
            session.commit()
        assert told(client.post("/v1/models/m5/trainings", json=TRAIN)) == (429, "quota-used-up", "training_seconds_per_day")


def test_a_training_that_ends_is_counted_to_its_day(
    settings: Settings, database: Database, client: Client, executor: Any
) -> None:
    client.post_air()
    client.train(executor, "air", **TRAIN, fit={"max_steps": 5})
    with database.read() as session:
        assert 0 < quotas.read_training_seconds(session, 1, database_now(session)) < 60
    client.delete("/v1/models/air")
    with database.read() as session:
        assert quotas.read_training_seconds(session, 1, database_now(session)) > 0


def test_without_limits_nothing_is_counted_and_no_header_is_sent(
    client: Client, settings: Settings, database: Database
) -> None:
    assert all(value == 0 for name, value in settings if name.startswith(("max_workspace_", "max_key_")))
    client.post_air()
    answer = client.get("/v1/datasets")
    assert not [name for name in answer.headers if name.startswith("ratelimit")]
    assert not (settings.data_dir / "rates.db").exists()
    with database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(WorkspaceDay)) == 0


def test_limits_have_a_setting_each() -> None:
    assert {f"max_workspace_{name}" for name in quotas.NAMES} == {
        n for n in Settings.model_fields if n.startswith("max_workspace_")
    }
    with pytest.raises(TypeError):
        quotas.Limits()


def test_a_replay_is_charged_nothing_and_an_equal_training_is_no_second_one(settings: Settings) -> None:
    with limited(settings, max_workspace_bytes_per_day=400, max_workspace_trainings=1) as client:
        rows = "series,timestamp,value\n" + "".join(f"a,2024-01-{day:02},{day}\n" for day in range(1, 11))
        for _ in range(5):
            sent = client.post("/v1/datasets/d/observations", content=rows, headers={**CSV, "Idempotency-Key": "k"})
            assert (sent.status_code, sent.json()["inserted"]) == (200, 10)
        assert post(client, "a", 10).status_code == 200
        asked = [client.post("/v1/models/m/trainings", json={"dataset": "d", "horizon": 3}) for _ in range(2)]
        assert [answer.status_code for answer in asked] == [202, 202]
        assert asked[0].json()["id"] == asked[1].json()["id"]


def test_a_search_is_one_training_that_runs_by_its_trials(settings: Settings, database: Database) -> None:
    def search(client: Client, model: str, hidden: int) -> Any:
        space = {"hidden_size": {"low": 4, "high": hidden}}
        return client.post(f"/v1/models/{model}/trainings", json={"dataset": "d", "horizon": 3, "search": {"space": space}})

    limits = {"max_workspace_running_trainings": 1, "max_workspace_trainings": 1, "max_network_weights": 10**6}
    settings = settings.model_copy(update=limits)
    with Client(settings) as client:
        post(client, "a", 20)
        assert told(search(client, "m", 1000))[:2] == (422, "network-too-large")
        assert search(client, "m", 8).status_code == 202
        searches.advance(database, settings)
        with database.write() as session:
            search_row, trial = session.scalars(sa.select(Training).order_by(Training.id)).all()
            assert (search_row.status, trial.parent_id) == ("running", search_row.id)
            taken = claims.claim(session, settings, "w", ("cpu",))
            assert taken is not None
            assert taken.training_id == trial.id
            search_row.started_at = database_now(session) - timedelta(seconds=50)
            trial.started_at = database_now(session) - timedelta(seconds=20)
            session.flush()
            assert 20 <= quotas.read_training_seconds(session, 1, database_now(session)) < 40
            session.commit()
        assert told(client.post("/v1/models/m2/trainings", json={"dataset": "d", "horizon": 3}))[2] == "trainings"
