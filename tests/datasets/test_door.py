"""A few plain observations pass in front of the routes, and get what the routes would answer."""

import json
from typing import Any

import httpx
import pytest

from app import middleware
from app.datasets import door, storing
from app.datasets.schemas import Receipt
from app.settings import Settings
from tests.conftest import PEPPER, Client

PATH = "/v1/datasets/d/observations"


def point(**changed: object) -> dict[str, object]:
    return {"series": "a", "timestamp": "2024-01-01T02:00:00Z", "value": 1.5, **changed}


BODIES = [
    {"observations": [point()]},
    {"observations": [point()]},
    {"observations": [point(value=None), point(series="b é", timestamp="2024-01-01T03:00:00Z")]},
    {"observations": [point(value="x")]},
    {"observations": [point(timestamp="2024-01-01T02:00:01Z")]},
    {"observations": [point(timestamp=3)]},
    {"observations": []},
    {"series": [{"id": "c", "start": "2024-01-01T00:00:00Z", "freq": "h", "values": [1, None, 2.25]}]},
    {"series": [{"id": "c", "start": "2024-01-01T00:00:00Z", "freq": "D", "values": [1]}]},
    {"nothing": 1},
    [],
]


def send(client: Client, path: str, body: bytes) -> tuple[int, dict[str, str], object]:
    answer: httpx.Response = client.post(path, content=body, headers={"Content-Type": "application/json", "X-Request-Id": "x"})
    headers = {name: value for name, value in answer.headers.items() if name not in ("content-length", "date")}
    return answer.status_code, headers, answer.content.replace(b"/v1/datasets/e/", b"/v1/datasets/d/").replace(b'"e"', b'"d"')


def test_the_door_answers_as_the_routes_do(client: Client) -> None:
    for name in "de":
        assert client.put(f"/v1/datasets/{name}", json={"freq": "h"}).status_code == 201
    bodies = [*(json.dumps(body).encode() for body in BODIES), b"", b"{", b'{"observations": [{"value": NaN}]}', b"[" * 200]
    for body in bodies:
        by_door = send(client, PATH, body)
        assert by_door == send(client, "/v1/datasets/e/observations?on_conflict=replace", body), body
    assert send(client, "/v1/datasets/d%00/observations", bodies[0])[0] in (404, 422)


def test_both_are_counted_under_one_name(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[object, ...]] = []
    monkeypatch.setattr(middleware, "count_request", lambda *about: counted.append(about[:3]))
    client.put("/v1/datasets/d", json={"freq": "h"})
    for query in ("", "?on_conflict=keep"):
        assert client.post(PATH + query, json=BODIES[0]).status_code == 200
    assert counted[1] == counted[2] == ("POST", "/v1/datasets/{dataset}/observations", 200)


def test_what_is_not_plain_goes_on_to_the_routes(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def store(posted: storing.Posted, *others: Any) -> Receipt:
        taken.append(posted.dataset)
        return storing.store(posted, *others)

    monkeypatch.setattr(door, "store", store)
    body = json.dumps(BODIES[0]).encode()
    assert client.put("/v1/datasets/d", json={"freq": "h"}).status_code == 201
    plain = {"Content-Type": "application/json"}
    for path, headers, content, is_plain in [
        (PATH, plain, body, True),
        (f"{PATH}?on_conflict=keep", plain, body, False),
        (PATH, {**plain, "Idempotency-Key": "k"}, body, False),
        (PATH, {"Content-Type": "application/json; charset=utf-8"}, body, False),
        (PATH, plain, body + b" " * 20_000, False),
        ("/v1/datasets/d/observations/preview", plain, body, False),
    ]:
        taken.clear()
        assert client.post(path, content=content, headers=headers).status_code == 200
        assert taken == ["d"] * is_plain, (path, headers)


def test_of_several_content_types_the_first_holds_for_all(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a body that nobody measured as JSON would be read as JSON."""
    monkeypatch.setattr(door, "store", None)
    client.put("/v1/datasets/d", json={"freq": "h"})
    twice = [("Content-Type", "text/csv"), ("Content-Type", "application/json")]
    answer = client.post(PATH, content=b"series,timestamp,value\na,2024-01-01T00:00:00Z,5\n", headers=twice)
    assert (answer.status_code, answer.json()["inserted"]) == (200, 1)


def test_the_door_is_shut_to_keys_that_may_not_write(settings: Settings) -> None:
    settings = settings.model_copy(update={"key_pepper": Settings(key_pepper=PEPPER).key_pepper})
    with Client(settings) as client:
        client.key = client.post("/v1/keys", json={"name": "admin", "scopes": ["admin"]}).json()["key"]
        reader = client.post("/v1/keys", json={"name": "reader", "scopes": ["read"]}).json()["key"]
        client.put("/v1/datasets/d", json={"freq": "h"})
        for key, status in [(reader, 403), ("engram_" + "a" * 9 + "_" + "b" * 43, 401), (client.key, 200)] * 2:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
            assert client.post(PATH, content=json.dumps(BODIES[0]), headers=headers).status_code == status
