"""Requesting, looking at, cancelling: the row's life over HTTP, with a real child where one is needed."""

import pytest
import sqlalchemy as sa

from app.database import Database
from app.tables import Training
from app.training.execution import Executor
from tests.conftest import QUICK, Client


def problem_of(client: Client, path: str, body: object) -> tuple[int, str, list[str]]:
    answer = client.post(path, json=body)
    problem = answer.json()
    assert problem["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, problem["type"].removeprefix("/problems/"), [e.get("pointer") for e in problem.get("errors", [])]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"dataset": "air", "horizon": 0}, "#/horizon"),
        ({"dataset": "air", "horizon": 10**9}, "#/horizon"),
        ({"dataset": "air", "horizon": "12"}, "#/horizon"),
        ({"dataset": "air", "horizon": True}, "#/horizon"),
        ({"dataset": "air", "horizon": 12.5}, "#/horizon"),
        ({"dataset": "air"}, "#/horizon"),
        ({"horizon": 12}, "#/dataset"),
        ({"dataset": "Air/1", "horizon": 12}, "#/dataset"),
        ({"dataset": "air", "horizon": 12, "epochs": 3}, "#/epochs"),
        ({"dataset": "air", "horizon": 12, "fit": {"max_seconds": 0}}, "#/fit/max_seconds"),
        ({"dataset": "air", "horizon": 12, "fit": {"learning_rate": "fast"}}, "#/fit/learning_rate"),
        ({"dataset": "air", "horizon": 12, "quantile_levels": [0.1, 1.0]}, "#/quantile_levels/1"),
        ({"dataset": "air", "horizon": 12, "end": "yesterday"}, "#/end"),
        ({"dataset": "air", "horizon": 12, "series": []}, "#/series"),
    ],
)
def test_a_wrong_body_is_refused_by_its_place(client: Client, body: dict[str, object], pointer: str) -> None:
    client.post_air()
    status, slug, pointers = problem_of(client, "/v1/models/air/trainings", body)
    assert (status, slug) == (422, "invalid-request")
    assert pointer in pointers
    assert client.get("/v1/models/air").status_code == 404


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null1", b'{"horizon": NaN}', b'{"horizon": 1e400}', b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(client: Client, content: bytes) -> None:
    client.post_air()
    answer = client.post("/v1/models/air/trainings", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text


def test_json_has_to_say_that_it_is(client: Client) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = client.post("/v1/models/air/trainings", content=b'{"dataset": "air"}', headers=form)
    assert (answer.status_code, answer.json()["type"]) == (415, "/problems/unsupported-media-type")


def test_a_dataset_that_does_not_exist_is_named(client: Client) -> None:
    assert problem_of(client, "/v1/models/m/trainings", {"dataset": "none", "horizon": 2})[:2] == (404, "not-found")
    client.post_air()
    named = {"dataset": "air", "horizon": 2, "series": ["air", "b"]}
    assert problem_of(client, "/v1/models/m/trainings", named)[:2] == (404, "not-found")


def test_series_without_two_values_cannot_be_learned(client: Client) -> None:
    rows = [{"series": "a", "timestamp": "2024-01-01", "value": 1.0}, {"series": "a", "timestamp": "2024-01-02", "value": None}]
    client.put("/v1/datasets/one", json={"freq": "D"})
    assert client.post("/v1/datasets/one/observations", json={"observations": rows}).status_code == 200
    assert problem_of(client, "/v1/models/m/trainings", {"dataset": "one", "horizon": 2})[:2] == (422, "nothing-to-learn")
    client.post_air()
    early = {"dataset": "air", "horizon": 2, "end": "1949-01-31T00:00:00Z"}
    assert problem_of(client, "/v1/models/m/trainings", early)[:2] == (422, "nothing-to-learn")
    empty = client.put("/v1/datasets/empty", json={})
    assert empty.status_code in (200, 201)
    assert problem_of(client, "/v1/models/m/trainings", {"dataset": "empty", "horizon": 2})[:2] == (422, "nothing-to-learn")


def test_what_the_default_network_cannot_be_asked_is_said(client: Client) -> None:
    client.post_air()
    relu = {"dataset": "air", "horizon": 2, "network": {"activation": "relu"}}
    assert problem_of(client, "/v1/models/m/trainings", relu)[:2] == (422, "invalid-request")


def test_a_textbook_lstm_is_one_request(client: Client, executor: Executor) -> None:
    client.post_air()
    network = {"architecture": "plain", "hidden_size": 50, "activation": "relu"}
    fit = {"loss": "mse", "optimizer": "sgd", "batch_size": "all", "max_epochs": 3, "input_noise": 0.01, "gradient_clip": None}
    ended = client.train(executor, "plain", dataset="air", horizon=1, context_length=1, network=network, fit=fit)
    assert ended["status"] == "succeeded", ended["problem"]
    assert ended["config"]["steps"] == 3
    curve = client.get(f"/v1/trainings/{ended['id']}/history").json()["items"]
    last = [one for one in curve if one["phase"] == "backtest"][-1]
    assert all(last[name] is not None for name in ("loss", "validation_loss", "gradient_norm"))
    forecast = client.post("/v1/models/plain/forecasts", json={"quantile_levels": [0.1, 0.5, 0.9]}).json()["forecasts"][0]
    assert forecast["quantiles"]["0.1"] < forecast["median"] < forecast["quantiles"]["0.9"]


def test_a_request_is_frozen_and_learned(client: Client, executor: Executor, database: Database) -> None:
    client.post_air()
    body = {"dataset": "air", "horizon": 6, "end": "1959-12-31T12:00:00Z", "quantile_levels": [0.9, 0.1], **QUICK}
    answer = client.post("/v1/models/air/trainings", json=body)
    queued = answer.json()
    assert answer.headers["location"] == f"/v1/trainings/{queued['id']}"
    assert (queued["status"], queued["attempt"], queued["version"]) == ("queued", 0, None)
    assert queued["request"]["quantile_levels"] == [0.1, 0.5, 0.9]
    late = {"observations": [{"series": "air", "timestamp": "1961-01-01", "value": 450.0}]}
    assert client.post("/v1/datasets/air/observations", json=late).status_code == 200
    executor.execute()
    ended = client.get(f"/v1/trainings/{queued['id']}").json()
    assert ended["status"] == "succeeded", ended["problem"]
    assert ended["data"]["cutoff"] == "1959-12-01T00:00:00Z"
    assert ended["data"]["observations"] == 132
    assert ended["progress"]["fraction"] == 1.0
    assert ended["config"]["season_lengths"] == [12]
    assert ended["config"]["steps"] == 30
    assert ended["device"] == "cpu"
    metrics = ended["metrics"]
    assert metrics["skill"] == pytest.approx(1 - metrics["backtest"]["mase"] / metrics["baseline"]["mase"])
    assert client.get("/v1/trainings?model=air&status=succeeded").json()["items"] == [ended]
    assert client.get("/v1/trainings?status=queued").json()["items"] == []


def test_an_empty_body_trains_as_last_time_on_all_there_is(client: Client, executor: Executor) -> None:
    client.post_air()
    first = client.train(executor, "air", dataset="air", horizon=6, end="1955-12-01T00:00:00Z", series=["air"], **QUICK)
    again = client.train(executor, "air")
    assert again["version"] == 2
    assert again["request"] == {**first["request"], "end": None}
    assert again["data"]["cutoff"] == "1960-12-01T00:00:00Z"
    client.patch("/v1/datasets/air", json={"name": "passengers"}).raise_for_status()
    renamed = client.post("/v1/models/air/trainings", json={}).json()
    assert renamed["dataset"] == renamed["request"]["dataset"] == "passengers"
    client.post_air("second")
    elsewhere = {"dataset": "second", "horizon": 3}
    client.post("/v1/models/air/trainings", json=elsewhere).raise_for_status()
    queued = client.post("/v1/models/air/trainings", json={}).json()
    assert (queued["dataset"], queued["request"]["horizon"]) == ("second", 3), "as last time, though that one still waits"
    for training in client.get("/v1/trainings?status=queued").json()["items"]:
        client.post(f"/v1/trainings/{training['id']}/cancel").raise_for_status()
    client.patch("/v1/datasets/passengers", json={"name": "air"}).raise_for_status()
    other = client.train(executor, "air", fit={"max_steps": 20})
    assert (other["request"]["horizon"], other["request"]["dataset"], other["request"]["series"]) == (6, "air", None)


def test_the_same_data_and_seed_give_the_same_artifact(client: Client, executor: Executor) -> None:
    client.post_air()
    for _ in range(2):
        client.train(executor, "air", dataset="air", horizon=6, **QUICK)
    one, two = (client.get(f"/v1/models/air/versions/{number}").json() for number in (1, 2))
    assert one["artifact"]["sha256"] == two["artifact"]["sha256"]
    assert one["data"]["fingerprint"] == two["data"]["fingerprint"]


def test_a_queued_training_is_cancelled_at_once(client: Client, executor: Executor) -> None:
    client.post_air()
    training = client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 6}).json()
    cancelled = client.post(f"/v1/trainings/{training['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    assert executor.execute() is None
    again = client.post(f"/v1/trainings/{training['id']}/cancel")
    assert (again.status_code, again.json()["type"]) == (409, "/problems/training-ended")
    assert client.get(f"/v1/trainings/{training['id']}/events").text.count("event: cancelled") == 1


def test_a_failure_says_what_to_do(client: Client, executor: Executor, database: Database) -> None:
    client.post_air()
    training = client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 6, "device": "cpu"}).json()
    client.delete("/v1/datasets/air/observations?series=air")
    executor.execute()
    ended = client.get(f"/v1/trainings/{training['id']}").json()
    assert ended["status"] == "failed"
    assert ended["problem"]["type"] == "/problems/nothing-to-learn"
    assert client.post("/v1/models/air/forecasts").status_code == 409


def test_what_nobody_foresaw_fails_the_training_at_once(client: Client, executor: Executor, database: Database) -> None:
    client.post_air()
    training = client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 6}).json()
    with database.write() as session:
        session.execute(sa.update(Training).values(request={"series": None, "series_prefix": None, "promote": "always"}))
        session.commit()
    executor.execute()
    ended = client.get(f"/v1/trainings/{training['id']}").json()
    assert (ended["status"], ended["problem"]["type"]) == ("failed", "/problems/training-failed")
    assert "log" in ended["problem"]["detail"]


def test_a_worker_that_stops_hands_its_training_back(client: Client, executor: Executor, database: Database) -> None:
    client.post_air()
    client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 6, "fit": {"max_seconds": 60}})
    import threading

    thread = threading.Thread(target=executor.execute)
    thread.start()
    executor.stopping.wait(1)
    executor.stopping.set()
    thread.join(10)
    assert not thread.is_alive()
    with database.read() as session:
        row = session.scalars(sa.select(Training)).one()
    assert (row.status, row.owner, row.lost_attempts) == ("queued", None, 0)


def test_lists_page(client: Client) -> None:
    client.post_air()
    bodies = [{"dataset": "air", "horizon": horizon} for horizon in (4, 5, 6)]
    ids = [client.post("/v1/models/air/trainings", json=body).json()["id"] for body in bodies]
    first = client.get("/v1/trainings?limit=2").json()
    second = client.get(f"/v1/trainings?limit=2&cursor={first['next_cursor']}").json()
    assert [item["id"] for item in first["items"] + second["items"]] == ids[::-1]
    assert second["next_cursor"] is None
    for cursor in ("!", "ImEi", "W10", "é"):
        assert client.get(f"/v1/trainings?cursor={cursor}").status_code == 422


def test_an_unknown_training_is_404_on_every_path(client: Client) -> None:
    for path in ("", "/events", "/history"):
        assert client.get(f"/v1/trainings/nope{path}").status_code == 404
    assert client.post("/v1/trainings/nope/cancel").status_code == 404
