"""Hosts, pages of other sites, headers, JSON, bodies that come slowly, streams: what stands before every route."""

import asyncio
import gzip
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.errors import RequestTimeout, TooManyStreams
from app.protection.documents import measure
from app.protection.headers import PAGE_POLICY, make_page_policy
from app.protection.origins import Origins
from app.protection.patience import Patience
from app.settings import Settings
from app.training.streams import Streams
from tests.conftest import Client

JSON = {"Content-Type": "application/json"}


def slug(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition("/")[2]


def test_without_a_key_only_a_host_that_no_stranger_can_name_is_answered(client: Client) -> None:
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7"):
        assert client.get("/v1/datasets", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", ""):
        answer = client.get("/v1/datasets", headers={"Host": host})
        assert slug(answer) == (421, "host-not-allowed"), host
        assert client.get("/health/live", headers={"Host": host}).status_code == 200
        assert client.get("/docs", headers={"Host": host}).status_code == 200
        assert client.get("/v1/datasets", headers={"Host": host, "Authorization": "Bearer x"}).status_code == 401
        assert client.get("/", headers={"Host": host}).status_code == 200
        assert client.get("/v1/datasets", headers={"Host": host, "Cookie": "engram_session=x"}).status_code == 401
    for host in ("localhost", "engram:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7"):
        assert client.get("/v1/datasets", headers={"Host": host}).status_code == 200, host


def test_allowed_hosts_are_the_only_ones(settings: Settings) -> None:
    def is_allowed(host: str, **fields: Any) -> bool:
        return Origins(None, settings.model_copy(update=fields))._is_allowed(host, has_key=True)  # type: ignore[arg-type]

    names = {"allowed_hosts": "engram.example, *.lan"}
    assert [is_allowed(host, **names) for host in ("engram.example", "a.lan", "a.b.lan")] == [True] * 3
    assert [is_allowed(host, **names) for host in ("lan", ".lan", "localhost", "xengram.example", "evil.example")] == [
        False
    ] * 5
    assert is_allowed("evil.example", allowed_hosts="*")


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:1234", "null"])
def test_another_sites_page_changes_nothing(client: Client, origin: str) -> None:
    client.post_air()
    for method, path in (("POST", "/v1/models/air/trainings"), ("DELETE", "/v1/datasets/air"), ("PUT", "/v1/datasets/b")):
        assert slug(client.request(method, path, headers={"Origin": origin})) == (403, "cross-site")
    assert client.get("/v1/datasets", headers={"Origin": origin}).status_code == 200
    elsewhere = {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"}
    assert slug(client.delete("/v1/datasets/air", headers=elsewhere)) == (403, "cross-site")
    assert client.delete("/v1/datasets/air", headers={"Origin": "http://localhost"}).status_code == 204
    behind_proxy = {"Origin": "https://engram.example", "Sec-Fetch-Site": "same-origin"}
    assert client.put("/v1/datasets/b", json={}, headers=behind_proxy).status_code == 201


def test_no_answer_may_be_read_by_another_origin(client: Client) -> None:
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "DELETE"}
    for answer in (
        client.request("OPTIONS", "/v1/datasets/air", headers=preflight),
        client.get("/v1/datasets", headers={"Origin": "https://evil.example"}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_carries_the_headers_that_bind_a_browser(client: Client) -> None:
    for path in ("/v1/datasets", "/v1/nowhere", "/health/live", "/docs", "/openapi.json", "/docs-static/swagger-ui.css"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert client.get("/v1/datasets").headers["content-security-policy"].startswith("default-src 'none'")


def test_a_page_may_run_its_own_files_and_the_scripts_that_stand_in_it_and_no_other(client: Client) -> None:
    policy = client.get("/docs").headers["content-security-policy"]
    (scripts,) = [part for part in policy.split("; ") if part.startswith("script-src")]
    assert "'unsafe-inline'" not in scripts
    assert "'unsafe-eval'" not in scripts
    assert scripts.count("'sha256-") == 1
    assert make_page_policy(b"<p>no script</p>") == PAGE_POLICY.format(scripts="")


def test_deep_json_is_refused_before_it_is_parsed(client: Client) -> None:
    deep = b"[" * 100_000
    for path in ("/v1/models/air/trainings", "/v1/datasets/air/observations", "/v1/keys", "/v1/models/air/forecasts"):
        answer = client.post(path, content=deep, headers=JSON)
        assert slug(answer) == (422, "json-too-deep"), path
    assert client.post("/v1/keys", content=b"[" * 32 + b"]" * 32, headers=JSON).json()["type"] != "/problems/json-too-deep"


def test_depth_is_that_of_brackets_outside_strings() -> None:
    deep = b'{"a": [[1], "[[[[:", "\\"[[["]}'
    assert measure(deep, 2) == (3, 1)
    assert measure(deep, 32) == (10, 2), "so few that nothing need be looked at"
    assert measure(b"", 0) == (0, 0)
    assert measure(b"]]]", 0) == (0, 0)
    assert measure(b'"' * 100_001, 0) == (0, 0)
    assert measure(b'"' + b"\\" * 200_000, 0) == (0, 0)


def test_a_body_of_unknown_fields_or_wrong_values_does_not_become_as_many_errors(client: Client) -> None:
    """Each would be a kilobyte in memory: a few megabytes of them once took gigabytes."""
    fields = b"{" + b",".join(b'"a%d":1' % number for number in range(30_000)) + b"}"
    assert slug(client.post("/v1/keys", content=fields, headers=JSON)) == (413, "body-too-large")
    wrong = b'{"series":[{"id":"a","start":1,"freq":"step","values":[' + b'"x",' * 300_000 + b"1]}]}"
    path, began = "/v1/datasets/a/observations", time.monotonic()
    answer = client.post(path, content=wrong, headers=JSON)
    assert slug(answer) == (422, "invalid-observations")
    assert len(answer.json()["errors"]) == 20
    assert answer.json()["errors"][19]["pointer"] == "#/series/0/values/19"
    assert "and 299999 more" in answer.json()["detail"]
    blocks = b'{"series":[' + b"{}," * 100_000 + b"{}]}"
    assert slug(client.post(path, content=blocks, headers=JSON)) == (422, "invalid-observations")
    assert slug(client.post(path, content=b'{"series":[' + fields + b"]}", headers=JSON)) == (422, "invalid-observations")
    rows = b'{"observations":[' + b"{}," * 300_000 + b"{}]}"
    assert len(client.post(path, content=rows, headers=JSON).json()["errors"]) == 20
    context = b'{"context":[{"id":"a","start":1,"values":[' + b'"x",' * 90_000 + b"1]}]}"
    assert slug(client.post("/v1/models/a/forecasts", content=context, headers=JSON))[0] == 422
    assert time.monotonic() - began < 20


def test_large_json_is_refused_also_when_it_is_packed(settings: Settings) -> None:
    body = b'{"observations": [' + b'{"timestamp": "2024-01-01", "value": 1}, ' * 2000
    with Client(settings.model_copy(update={"max_json_bytes": 10_000})) as client:
        for headers, content in ((JSON, body), ({**JSON, "Content-Encoding": "gzip"}, gzip.compress(body))):
            answer = client.post("/v1/datasets/a/observations", content=content, headers=headers)
            assert slug(answer) == (413, "body-too-large")
            assert answer.json()["max_bytes"] == 10_000
        rows = b"timestamp,value\n2024-01-01,1\n2024-01-02,1\n" + b"\n" * 20_000
        assert client.post("/v1/datasets/a/observations", content=rows, headers={"Content-Type": "text/csv"}).status_code == 200


@pytest.mark.parametrize("limits", [{"max_silence_seconds": 0.1}, {"max_silence_seconds": 5.0, "max_body_seconds": 0.2}])
def test_a_body_that_comes_too_slowly_is_given_up(limits: dict[str, float]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.15)
        return {"type": "http.request", "body": b"x", "more_body": True}

    patience = Patience(app, Settings(**limits))  # type: ignore[arg-type]
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(RequestTimeout),
    ):  # a thread of its own: a browser may leave its loop in this one
        pool.submit(asyncio.run, patience({"type": "http"}, receive, None)).result()  # type: ignore[arg-type]


def test_a_body_is_handed_on_whether_it_was_there_or_is_waited_for() -> None:
    ended: list[str] = []

    async def run(how: str) -> list[bytes]:
        heard: list[bytes] = []

        async def receive() -> dict[str, Any]:
            try:
                for _ in range({"there": 0, "waited": 3, "broken": 2, "cancelled": 1}[how]):
                    await asyncio.sleep(0.01 if how != "cancelled" else 60)
                if how == "broken":
                    raise ConnectionResetError
            finally:
                ended.append(how)
            return {"type": "http.request", "body": how.encode(), "more_body": False}

        async def app(scope: Any, receive: Any, send: Any) -> None:
            heard.append((await receive())["body"])

        work = asyncio.ensure_future(Patience(app, Settings())({"type": "http"}, receive, None))  # type: ignore[arg-type]
        if how == "cancelled":
            await asyncio.sleep(0.05)
            work.cancel()
        await work
        return heard

    def in_a_thread(how: str) -> list[bytes]:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, run(how)).result()

    assert in_a_thread("there") == [b"there"]
    assert in_a_thread("waited") == [b"waited"]
    with pytest.raises(ConnectionResetError):
        in_a_thread("broken")
    with pytest.raises(asyncio.CancelledError):
        in_a_thread("cancelled")
    assert ended == ["there", "waited", "broken", "cancelled"]


def test_streams_are_counted_by_workspace_and_freed_when_they_end() -> None:
    streams = Streams(1)
    for _ in range(3):
        with streams.hold(1), streams.hold(2), pytest.raises(TooManyStreams), streams.hold(1):
            pass


def test_a_stream_too_many_is_refused_and_one_that_ended_makes_room(settings: Settings) -> None:
    with Client(settings.model_copy(update={"max_streams": 1})) as client:
        client.post_air()
        training = client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 3}).json()["id"]
        client.post(f"/v1/trainings/{training}/cancel")
        for _ in range(3):
            assert client.get(f"/v1/trainings/{training}/events").status_code == 200
        with client.app.state.streams.hold(1):
            answer = client.get(f"/v1/trainings/{training}/events")
            assert slug(answer) == (429, "too-many-streams")
            assert answer.headers["retry-after"] == "10"
