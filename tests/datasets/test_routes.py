"""The paths of datasets: make, read, change, list, delete; and what their answers look like."""

from typing import Any

import pytest
import sqlalchemy as sa

from app.database import Database
from app.tables import Chunk, Series

DAYS = b"series,timestamp,value\nb,2024-01-01,1\nb,2024-01-02,\nb,2024-01-04,4\na,2024-01-02,2\n"


def post(client: Any, dataset: str, text: bytes = DAYS) -> None:
    answer = client.post(f"/v1/datasets/{dataset}/observations", content=text, headers={"content-type": "text/csv"})
    assert answer.status_code == 200, answer.text


def problem_of(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def test_put_makes_once_and_changes_only_what_is_empty(client: Any) -> None:
    wanted = {"freq": "60min", "time_zone": "Europe/Berlin", "description": "hourly", "aggregate": None}
    made = client.put("/v1/datasets/a", json=wanted)
    assert made.status_code == 201
    assert {key: made.json()[key] for key in wanted} == {**wanted, "freq": "h"}
    again = client.put("/v1/datasets/a", json=wanted)
    assert (again.status_code, again.json()) == (200, made.json())
    assert client.put("/v1/datasets/a", json={"freq": "D", "time_zone": "UTC"}).json()["freq"] == "D"
    post(client, "a")
    assert client.put("/v1/datasets/a", json={"freq": "D", "description": "daily"}).json()["description"] == "daily"
    assert client.put("/v1/datasets/a", json={"freq": None}).status_code == 200  # inferred, which is no change
    for change in ({"freq": "h"}, {"time_zone": "Asia/Tokyo"}, {"aggregate": "sum"}):
        assert problem_of(client.put("/v1/datasets/a", json=change)) == (409, "dataset-not-empty")
    found = client.get("/v1/datasets/a").json()
    assert (found["freq"], found["time_zone"], found["phase_seconds"]) == ("D", "UTC", 0)
    assert (found["series"], found["observations"]) == (2, 4)


def test_an_emptied_dataset_may_become_another(client: Any) -> None:
    post(client, "a")
    assert client.delete("/v1/datasets/a/observations?series=a&series=b").json() == {"deleted": 4}
    assert client.put("/v1/datasets/a", json={"freq": "h"}).json()["phase_seconds"] is None
    post(client, "a", b"timestamp,value\n2024-01-01T00:30:00Z,1\n")
    assert client.get("/v1/datasets/a").json()["phase_seconds"] == 1800


@pytest.mark.parametrize(
    "body",
    [
        {"freq": "hourly"},
        {"freq": 1},
        {"time_zone": "Mars"},
        {"aggregate": "median"},
        {"color": 1},
        {"description": "a\x00"},
        [],
    ],
)
def test_put_refuses_what_it_does_not_know(client: Any, body: object) -> None:
    answer = client.put("/v1/datasets/a", json=body)
    assert problem_of(answer) == (422, "invalid-request")
    key = next(iter(body), "") if isinstance(body, dict) else ""
    assert answer.json()["errors"][0]["pointer"] == (f"#/{key}" if key else "#")
    assert client.get("/v1/datasets/a").status_code == 404


def test_names_that_are_none_never_reach_the_database(client: Any) -> None:
    for name in ("UPPER", "-a", "a" * 65, "%00", "a%00", "%ED%A0%80", "a b", "ä", "a%0A"):
        for method, path in [("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/series"), ("GET", "/observations")]:
            answer = client.request(method, f"/v1/datasets/{name}{path}", json={} if method == "PUT" else None)
            assert answer.status_code in (404, 422), (name, method, path)
            assert answer.headers["content-type"] == "application/problem+json"
    assert client.put("/v1/datasets/a/b", json={}).status_code == 404
    assert client.put("/v1/datasets/a%2Fb", json={}).status_code == 404


def test_patch_renames_and_describes(client: Any) -> None:
    client.put("/v1/datasets/a", json={"description": "old"})
    client.put("/v1/datasets/b", json={})
    assert problem_of(client.patch("/v1/datasets/a", json={"name": "b"})) == (409, "already-exists")
    assert problem_of(client.patch("/v1/datasets/a", json={"name": "No!"})) == (422, "invalid-request")
    assert problem_of(client.patch("/v1/datasets/a", json={"freq": "h"})) == (422, "invalid-request")
    assert problem_of(client.patch("/v1/datasets/zz", json={"name": "c"})) == (404, "not-found")
    renamed = client.patch("/v1/datasets/a", json={"name": "c"})
    assert (renamed.json()["name"], renamed.json()["description"]) == ("c", "old")
    assert client.get("/v1/datasets/a").status_code == 404
    assert client.patch("/v1/datasets/c", json={"description": "new"}).json()["description"] == "new"


def test_lists_page_through_everything_once(client: Any) -> None:
    for name in ("b", "a", "c"):
        client.put(f"/v1/datasets/{name}", json={})
    post(
        client,
        "a",
        b"series,timestamp,value\n"
        + b"".join(b"%s,2024-01-0%d,1\n" % (s, d) for s in (b"x1", b"y", b"x2", b"X") for d in (1, 2)),
    )
    for path, key, expected in [("datasets", "name", ["a", "b", "c"]), ("datasets/a/series", "id", ["X", "x1", "x2", "y"])]:
        found, cursor = [], ""
        while cursor is not None:
            page = client.get(f"/v1/{path}?limit=2{cursor and '&cursor='}{cursor}").json()
            found += [item[key] for item in page["items"]]
            cursor = page["next_cursor"]
        assert found == expected
    assert [item["id"] for item in client.get("/v1/datasets/a/series?prefix=x").json()["items"]] == ["x1", "x2"]
    assert client.get("/v1/datasets/a/series?prefix=%00").json()["items"] == []
    for query in (
        "limit=0",
        "limit=1001",
        f"limit={10**30}",
        "cursor=%00",
        "cursor=5",
        "cursor=ImFcdTAwMDAi",
    ):  # the last: "a\u0000"
        assert problem_of(client.get(f"/v1/datasets?{query}")) == (422, "invalid-request")


def test_ranges_are_inclusive_and_local_where_naive(client: Any) -> None:
    post(client, "a")

    def days(query: str) -> list[str]:
        answer = client.get(f"/v1/datasets/a/observations?series=b&{query}")
        assert answer.status_code == 200, answer.text
        return [timestamp[8:10] for timestamp in answer.json()["series"][0]["timestamps"]]

    assert days("start=2024-01-02&end=2024-01-04") == ["02", "04"]
    assert days("start=2024-01-01T00:00:01Z&end=2024-01-03T23:59:59Z") == ["02"]
    assert days("start=2024-01-02T01:00:00+01:00") == ["02", "04"]  # a plus that arrives as a space
    assert days("start=2025-01-01") == []
    assert days("end=2024-01-01&start=2024-01-04") == []
    for query in ("start=soon", "end=5", "start=", "end=%00", "start=9999-01-01"):
        assert problem_of(client.get(f"/v1/datasets/a/observations?{query}")) == (422, "invalid-request")


def test_answers_are_given_as_accept_asks(client: Any) -> None:
    post(client, "a")
    path = "/v1/datasets/a/observations"
    for accept, expected in {
        "*/*": "application/json",
        "": "application/json",
        "text/*;q=0.5, application/json;q=0.1": "text/csv; charset=utf-8",
        "image/png, text/csv": "text/csv; charset=utf-8",
        "application/vnd.apache.parquet": "application/vnd.apache.parquet",
        "application/vnd.apache.arrow.stream;q=x": "application/vnd.apache.arrow.stream",
    }.items():
        answer = client.get(path, headers={"accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (200, expected)
    assert problem_of(client.get(path, headers={"accept": "image/png, text/csv;q=0"})) == (406, "not-acceptable")
    client.put("/v1/datasets/empty", json={})
    assert client.get("/v1/datasets/empty/observations").json() == {"series": []}
    assert client.get("/v1/datasets/empty/observations", headers={"accept": "text/csv"}).text == "series,timestamp,value\n"


def test_too_much_at_once_is_refused_with_the_way_out(client: Any) -> None:
    client.app.state.settings = client.app.state.settings.model_copy(update={"max_answer_observations": 40})
    post(client, "a")
    answer = client.get("/v1/datasets/a/observations")
    assert problem_of(answer) == (422, "answer-too-large")
    assert "fewer series" in answer.json()["detail"]
    assert client.get("/v1/datasets/a/observations", headers={"accept": "text/csv"}).status_code == 200
    assert client.get("/v1/datasets/a/observations?end=2024-01-01").status_code == 200


def test_deleting_a_range_leaves_the_rest_and_its_counts(client: Any, database: Database) -> None:
    post(client, "a", b"timestamp,value\n" + b"".join(b"%d,%s\n" % (k, b"" if k % 100 == 99 else b"1") for k in range(5000)))

    def series() -> dict[str, Any]:
        return dict(client.get("/v1/datasets/a/series").json()["items"][0])

    path = "/v1/datasets/a/observations?series=a"
    assert client.delete(f"{path}&start=1000&end=3999").json() == {"deleted": 3000}
    assert series() == {"id": "a", "count": 2000, "missing": 20, "first_timestamp": 0, "last_timestamp": 4999}
    with database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Chunk)) == 3
        assert session.scalars(sa.select(Series.cutoff_step)).one() == 4998
    assert client.delete(f"{path}&start=4500").json() == {"deleted": 500}
    assert client.delete(f"{path}&end=9").json() == {"deleted": 10}
    assert client.delete(f"{path}&end=9").json() == {"deleted": 0}
    assert series() == {"id": "a", "count": 1490, "missing": 15, "first_timestamp": 10, "last_timestamp": 4499}
    with database.read() as session:
        assert session.execute(sa.select(Series.cutoff_step, Series.revision)).one() == (4498, 4)
    assert client.delete(path).json() == {"deleted": 1490}
    assert client.get("/v1/datasets/a/series").json()["items"] == []
    assert problem_of(client.delete(path)) == (404, "not-found")
    assert problem_of(client.delete("/v1/datasets/a/observations")) == (422, "invalid-request")


def test_delete_takes_the_dataset_with_all_it_holds(client: Any, database: Database) -> None:
    post(client, "a")
    assert client.delete("/v1/datasets/a").status_code == 204
    assert problem_of(client.delete("/v1/datasets/a")) == (404, "not-found")
    with database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Chunk)) == 0
    post(client, "a")


def test_the_openapi_document_names_every_format(client: Any) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    observations = paths["/v1/datasets/{dataset}/observations"]
    media_types = {"application/json", "text/csv", "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream"}
    assert set(observations["post"]["requestBody"]["content"]) == media_types | {"application/x-ndjson"}
    assert set(observations["get"]["responses"]["200"]["content"]) == media_types
    assert "$defs" not in str(observations["post"]["requestBody"])
