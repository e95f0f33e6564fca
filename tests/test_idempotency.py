"""The same request twice: with a key, without one, one after the other, and at the same instant; on both databases."""

import threading
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from app.database import Database, utc_now
from app.idempotency import REPLAYED
from app.tables import Dataset, IdempotencyKey, Model, Training
from tests.conftest import QUICK, Client

ROWS = {"observations": [{"series": "a", "timestamp": f"2024-01-0{day}", "value": 1.0} for day in (1, 2, 3)]}
MORE = {"observations": [{"series": "a", "timestamp": "2024-01-04", "value": 2.0}]}
PATH = "/v1/datasets/days/observations"
TRAIN = {"dataset": "days", "horizon": 1, **QUICK}


def post(client: Client, path: str, body: object, key: str | None = "k1") -> httpx.Response:
    return client.post(path, json=body, headers={} if key is None else {"Idempotency-Key": key})


def count(database: Database, table: Any) -> int:
    with database.read() as session:
        return int(session.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def at_once(send: Any, times: int) -> list[httpx.Response]:
    answers: list[httpx.Response] = []
    start = threading.Barrier(times)

    def one() -> None:
        start.wait()
        answers.append(send())

    threads = [threading.Thread(target=one) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_observations_under_a_key_give_the_first_answer_again(client: Client) -> None:
    first = post(client, PATH, ROWS)
    assert (first.status_code, first.json()["inserted"], REPLAYED in first.headers) == (200, 3, False)
    post(client, PATH, MORE, None)
    again = post(client, PATH, ROWS)
    assert (again.status_code, again.json(), again.headers[REPLAYED]) == (200, first.json(), "true")
    assert post(client, PATH, ROWS, None).json()["unchanged"] == 3


def test_the_same_key_with_another_request_is_refused_and_stores_nothing(client: Client) -> None:
    post(client, PATH, ROWS)
    for path, body in ((PATH, MORE), ("/v1/datasets/others/observations", ROWS), (f"{PATH}?on_conflict=keep", ROWS)):
        answer = post(client, path, body)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/key-reused")
        assert answer.json()["key"] == "k1"
    assert post(client, "/v1/models/m/trainings", TRAIN).status_code == 422
    assert client.get("/v1/datasets").json()["items"][0]["observations"] == 3
    assert client.get("/v1/trainings").json()["items"] == []


def test_a_refused_request_leaves_no_key(client: Client, database: Database) -> None:
    assert post(client, PATH, {"observations": [{"series": "a", "timestamp": "never", "value": 1}]}).status_code == 422
    assert post(client, "/v1/models/m/trainings", TRAIN).status_code == 404
    assert count(database, IdempotencyKey) == 0
    assert post(client, PATH, ROWS).status_code == 200
    assert post(client, PATH, ROWS, " ").status_code == 422


def test_a_key_is_good_for_24_hours(client: Client, database: Database) -> None:
    post(client, PATH, ROWS)
    for hours, status in ((23.9, 422), (24.1, 200)):
        with database.write() as session:
            session.execute(sa.update(IdempotencyKey).values(created_at=utc_now() - timedelta(hours=hours)))
            session.commit()
        assert post(client, PATH, MORE).status_code == status


def test_while_the_first_is_at_work_the_second_is_told_to_come_again(client: Client, database: Database) -> None:
    post(client, PATH, ROWS, None)
    with database.write() as session:  # holds the first request up: SQLite's one writer, PostgreSQL's row of the dataset
        session.scalars(sa.select(Dataset).with_for_update()).one()
        answers: list[httpx.Response] = []
        first = threading.Thread(target=lambda: answers.append(post(client, PATH, MORE)))
        first.start()
        waiting = threading.Event()
        while not client.app.state.at_work._keys:
            waiting.wait(0.01)
        waiting.wait(0.2)
        second = post(client, PATH, MORE)
        assert (second.status_code, second.json()["type"]) == (409, "/problems/request-at-work")
        assert second.headers["Retry-After"] == "1"
        session.commit()
    first.join()
    assert (answers[0].status_code, answers[0].json()["inserted"]) == (200, 1)
    assert post(client, PATH, MORE).json() == answers[0].json()


def test_two_processes_on_postgresql_know_of_each_other(client: Client, database: Database) -> None:
    if database.dialect != "postgresql":
        pytest.skip("on SQLite the second waits for the file's one writer")
    from app.idempotency import _lock

    with database.write() as session:
        assert _lock(session, (1, "k1"))
        assert post(client, PATH, ROWS).status_code == 409
    assert post(client, PATH, ROWS).status_code == 200


@pytest.mark.parametrize("key", ["k1", None])
def test_identical_trainings_at_the_same_instant_are_one(client: Client, database: Database, key: str | None) -> None:
    post(client, PATH, ROWS, None)
    answers = at_once(lambda: post(client, "/v1/models/m/trainings", TRAIN, key), 5)
    assert {answer.status_code for answer in answers} <= {202, 409 if key else 202}
    ids = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert (len(ids), count(database, Training), count(database, Model)) == (1, 1, 1)
    again = post(client, "/v1/models/m/trainings", TRAIN, key)
    assert ({again.json()["id"]}, again.headers["Location"]) == (ids, f"/v1/trainings/{again.json()['id']}")


def test_an_equal_training_under_way_is_the_answer(client: Client) -> None:
    def request(model: str = "m", **more: object) -> str:
        answer = post(client, f"/v1/models/{model}/trainings", {**TRAIN, **more}, None)
        assert answer.status_code == 202
        return str(answer.json()["id"])

    post(client, PATH, ROWS, None)
    first = request()
    assert request() == first
    assert post(client, "/v1/models/m/trainings", {}, None).json()["id"] == first
    others = {request(promote="never"), request("another"), request(end="2024-01-02")}
    assert len(others | {first}) == 4
    post(client, PATH, MORE, None)
    newer = request()
    assert newer not in others | {first}, "the data has another revision"
    assert client.post(f"/v1/trainings/{newer}/cancel").json()["status"] == "cancelled"
    assert request() != newer, "it has ended"
