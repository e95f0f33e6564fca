"""Models, versions, aliases, artifacts, kept backtests: over HTTP, on both databases."""

import hashlib

import pytest
import sqlalchemy as sa

from app.database import Database
from app.tables import Alias, Artifact, BacktestWindow, Training, Version
from app.training.execution import Executor
from tests.conftest import QUICK, Client


@pytest.fixture
def two_versions(client: Client, executor: Executor) -> Client:
    client.post_air()
    for seed in (0, 1):
        client.train(executor, "air", dataset="air", horizon=6, fit={"max_steps": 20, "seed": seed})
    return client


def champion(client: Client) -> int:
    return int(client.post("/v1/models/air/forecasts").json()["version"])


def test_versions_are_listed_read_promoted_rolled_back_and_deleted(two_versions: Client, executor: Executor) -> None:
    client = two_versions
    model = client.get("/v1/models/air").json()
    assert (model["dataset"], model["horizon"], model["aliases"], model["newest_version"]) == ("air", 6, {"champion": 2}, 2)
    assert client.get("/v1/models").json()["items"] == [model]
    versions = client.get("/v1/models/air/versions").json()["items"]
    assert [version["version"] for version in versions] == [2, 1]
    assert versions[0] == client.get("/v1/models/air/versions/2").json()
    assert versions[0]["aliases"] == ["champion"]
    assert versions[0]["cutoff"] == "1960-12-01T00:00:00Z"
    assert versions[0]["metrics"]["baseline"]["mase"] > 0
    assert champion(client) == 2

    rolled_back = client.put("/v1/models/air/aliases/champion", json={"version": 1})
    assert rolled_back.json() == {"model": "air", "alias": "champion", "version": 1}
    assert champion(client) == 1
    assert client.put("/v1/models/air/aliases/candidate", json={"version": 2}).status_code == 200
    assert client.post("/v1/models/air/forecasts", json={"version": "candidate"}).json()["version"] == 2

    refused = client.delete("/v1/models/air/versions/1")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/version-serves")
    assert client.put("/v1/models/air/aliases/candidate", json={"version": 1}).status_code == 200
    assert client.delete("/v1/models/air/versions/2").status_code == 204
    assert client.get("/v1/models/air/versions/2").status_code == 404
    assert client.get("/v1/models/air").json()["newest_version"] == 1
    assert client.train(executor, "air")["version"] == 3, "a deleted number never comes back"


def test_artifacts_are_checked_and_all_goes_with_the_dataset(two_versions: Client, database: Database) -> None:
    client = two_versions
    answer = client.get("/v1/models/air/versions/1/artifact")
    sha256 = hashlib.sha256(answer.content).hexdigest()
    assert answer.headers["etag"] == f'"{sha256}"'
    described = client.get("/v1/models/air/versions/1").json()["artifact"]
    assert described == {"sha256": sha256, "size_bytes": len(answer.content)}
    again = client.get("/v1/models/air/versions/1/artifact", headers={"If-None-Match": f'"{sha256}"'})
    assert (again.status_code, again.content) == (304, b"")

    with database.write() as session:  # a damaged artifact is said, and the other version serves
        newest = sa.select(Version.id).where(Version.number == 2).scalar_subquery()
        session.execute(sa.update(Artifact).where(Artifact.version_id == newest).values(data=b"damaged"))
        session.commit()
    damaged = client.post("/v1/models/air/forecasts")
    assert (damaged.status_code, damaged.json()["type"]) == (500, "/problems/artifact-corrupt")
    assert (damaged.json()["model"], damaged.json()["version"]) == ("air", 2)
    client.put("/v1/models/air/aliases/champion", json={"version": 1})
    assert champion(client) == 1

    refused = client.delete("/v1/datasets/air")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/dataset-in-use")
    assert client.delete("/v1/datasets/air?cascade=true").status_code == 204
    assert client.get("/v1/models").json()["items"] == []
    assert count_rows(database) == 0


def count_rows(database: Database) -> int:
    with database.read() as session:
        tables = (Version, Artifact, Alias, BacktestWindow, Training)
        return sum(session.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in tables)


def test_a_deleted_model_takes_everything_along(client: Client, executor: Executor, database: Database) -> None:
    client.post_air()
    client.train(executor, "air", dataset="air", horizon=6, **QUICK)
    assert count_rows(database) > 0
    assert client.delete("/v1/models/air").status_code == 204
    assert client.get("/v1/models/air").status_code == 404
    assert count_rows(database) == 0


def test_the_backtest_stands_beside_what_happened(client: Client, executor: Executor) -> None:
    client.post_air()
    client.train(executor, "air", dataset="air", horizon=6, backtest={"n_windows": 3, "step_size": 2}, **QUICK)
    items = client.get("/v1/models/air/versions/1/backtest").json()["items"]
    assert sorted(item["cutoff"] for item in items) == [
        "1960-02-01T00:00:00Z",
        "1960-04-01T00:00:00Z",
        "1960-06-01T00:00:00Z",
    ]
    happened = client.get("/v1/datasets/air/observations").json()["series"][0]
    by_time = dict(zip(happened["timestamps"], happened["values"], strict=True))
    for item in items:
        assert item["actual"] == [by_time[timestamp] for timestamp in item["timestamps"]]
        assert item["median"] == item["quantiles"]["0.5"]
        assert all(low <= high for low, high in zip(item["quantiles"]["0.1"], item["quantiles"]["0.9"], strict=True))
    first = client.get("/v1/models/air/versions/1/backtest?limit=2").json()
    second = client.get(f"/v1/models/air/versions/1/backtest?limit=2&cursor={first['next_cursor']}").json()
    assert first["items"] + second["items"] == items
    assert client.get("/v1/models/air/versions/1/backtest?series=other").json()["items"] == []


def test_promotion_follows_the_request(client: Client, executor: Executor) -> None:
    client.post_air()
    never = client.train(executor, "air", dataset="air", horizon=6, promote="never", **QUICK)
    assert never["version"] == 1
    refused = client.post("/v1/models/air/forecasts")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/no-trained-version")
    assert "champion" in refused.json()["detail"]
    good = client.train(executor, "air", dataset="air", horizon=6, promote="if_better", fit={"max_steps": 300})
    assert champion(client) == 2, good
    # one step, at a rate at which it learns nothing: it cannot beat the version that serves
    bad = client.train(executor, "air", promote="if_better", fit={"max_steps": 1, "learning_rate": 1e-9})
    assert bad["metrics"]["champion"]["wql"] < bad["metrics"]["backtest"]["wql"]
    assert champion(client) == 2


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/models/none", None, 404),
        ("GET", "/v1/models/Not a name", None, 422),
        ("GET", "/v1/models/air/versions/0", None, 422),
        ("GET", "/v1/models/air/versions/99", None, 404),
        ("GET", "/v1/models/air/versions/x", None, 422),
        ("GET", "/v1/models/air/versions/99999999999999999999", None, 422),
        ("PUT", "/v1/models/air/aliases/champion", {"version": 99}, 404),
        ("PUT", "/v1/models/air/aliases/champion", {"version": "1"}, 422),
        ("PUT", "/v1/models/air/aliases/champion", {"version": 1, "by": "me"}, 422),
        ("PUT", "/v1/models/air/aliases/9", {"version": 1}, 422),
        ("DELETE", "/v1/models/none", None, 404),
        ("GET", "/v1/trainings/%00", None, 404),
        ("GET", "/v1/models?cursor=IlwiXHUwMDAwIg", None, 422),
        ("GET", "/v1/models/air/versions?cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk", None, 422),
        ("GET", "/v1/models/air/forecasts?version=%00", None, 404),
        ("GET", "/v1/models/air/forecasts?series=%00", None, 409),
        ("POST", "/v1/models/air/trainings", {"horizon": 2, "series": ["\0"]}, 404),
        ("POST", "/v1/models/air/trainings", {"horizon": 2, "series_prefix": "\0"}, 422),
        ("POST", "/v1/models/air/trainings", {"horizon": 2, "end": 10**30}, 422),
    ],
)
def test_what_is_not_there_or_not_right_is_a_problem(
    client: Client, executor: Executor, method: str, path: str, body: object, status: int
) -> None:
    client.post_air()
    client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 6})
    answer = client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
