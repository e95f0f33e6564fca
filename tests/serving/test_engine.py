"""The predicting thread: versions are there before they are asked for, and too many who wait are told so."""

import time

import pytest
import sqlalchemy as sa

from app.database import Database
from app.lstm.compiled import load_library
from app.serving import engine
from app.tables import Alias
from app.training.execution import Executor
from tests.conftest import QUICK, Client


def test_a_version_that_began_to_serve_is_loaded_before_anybody_asks(
    client: Client, executor: Executor, database: Database
) -> None:
    client.post_air()
    client.train(executor, "air", dataset="air", horizon=6, **QUICK)
    assert client.post("/v1/models/air/forecasts", json={"series": ["air"]}).status_code == 200
    client.train(executor, "air", dataset="air", horizon=6, **QUICK)
    with database.read() as session:
        version_id = session.scalars(sa.select(Alias.version_id)).one()
    forecasters = client.app.state.engine._reader._forecasters
    deadline = time.monotonic() + 20
    while not forecasters.holds(version_id):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.post("/v1/models/air/forecasts", json={"series": ["air"]}).json()["version"] == 2


def test_whatever_breaks_on_the_loop_is_told_to_whoever_waits(
    client: Client, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post_air()
    client.train(executor, "air", dataset="air", horizon=6, **QUICK)
    asked = {"context": [{"id": "x", "start": "1960-01-01T00:00:00Z", "values": [1.0, 2.0, 3.0]}]}
    for _ in range(2):  # of the second nothing has to be read
        assert client.post("/v1/models/air/forecasts", json=asked).status_code == 200

    def break_down(*_: object) -> None:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(engine, "compute", break_down)
    assert client.post("/v1/models/air/forecasts", json=asked).status_code == 500


def test_what_was_just_written_is_forecast_on_the_loop_where_that_reads_at_a_glance(
    client: Client, executor: Executor, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post_air()
    client.train(executor, "air", dataset="air", horizon=6, **QUICK)
    path, asked = "/v1/models/air/forecasts", {"series": ["air"]}
    assert client.post(path, json=asked).status_code == 200
    reader = client.app.state.engine._reader
    if database.dialect != "sqlite" or load_library() is None:
        pytest.skip("PostgreSQL is asked from the thread, and torch works there")
    with monkeypatch.context() as patched:
        patched.setattr(reader, "read", lambda *_: pytest.fail("the thread was asked"))
        point = {"series": "air", "timestamp": "1961-01-01", "value": 450.0}
        assert client.post("/v1/datasets/air/observations", json={"observations": [point]}).status_code == 200
        answer = client.post(path, json=asked).json()
        assert answer["forecasts"][0]["cutoff"] == "1961-01-01T00:00:00Z"


def test_of_more_models_than_fit_none_is_loaded_again_unasked(client: Client, executor: Executor, database: Database) -> None:
    client.post_air()
    client.train(executor, "air", dataset="air", horizon=6, **QUICK)
    assert client.post("/v1/models/air/forecasts", json={"series": ["air"]}).status_code == 200
    with database.read() as session:
        version_id = session.scalars(sa.select(Alias.version_id)).one()
    reader = client.app.state.engine._reader
    reader._forecasters._loaded.drop(version_id)  # as when others needed the room
    reader.warm()
    assert not reader._forecasters.holds(version_id)


def test_too_many_who_wait_are_told_so_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_WAITING", -1)
    for body in ({"series": ["a"]}, {}):
        answer = client.post("/v1/models/air/forecasts", json=body)
        assert (answer.status_code, answer.json()["type"], answer.headers["retry-after"]) == (503, "/problems/overloaded", "1")
