"""Forecasts over HTTP: stored series, inline context, as of a cutoff, every format; on both databases."""

import io
from typing import Any

import numpy as np
import polars as pl
import pytest

from app.training.execution import Executor
from tests.conftest import QUICK, Client

ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"


@pytest.fixture(scope="module")
def three(kept: tuple[Client, Executor]) -> Client:
    """Daily series a, b, c of 60, 61, 62 days, trained for 5 days; `empty` holds only missing values. Not to be written to."""
    return train_days(*kept)


def train_days(client: Client, executor: Executor) -> Client:
    random = np.random.default_rng(1)
    series: list[dict[str, Any]] = [
        {
            "id": name,
            "start": "2024-01-01T00:00:00Z",
            "freq": "D",
            "values": (50 + 10 * np.sin(np.arange(length) * 2 * np.pi / 7) + random.normal(0, 1, length)).round(2).tolist(),
        }
        for name, length in (("a", 60), ("b", 61), ("c", 62))
    ]
    series.append({"id": "empty", "start": "2024-01-01T00:00:00Z", "freq": "D", "values": [None, None]})
    answer = client.post("/v1/datasets/days/observations", json={"series": series})
    assert answer.status_code == 200, answer.text
    trained = client.train(executor, "days", dataset="days", horizon=5, **QUICK)
    assert trained["status"] == "succeeded", trained
    return client


def ask(client: Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/models/days/forecasts", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_each_series_is_forecast_from_its_own_last_value(three: Client) -> None:
    answer = ask(three)
    assert (answer["model"], answer["version"], answer["dataset"], answer["freq"]) == ("days", 1, "days", "D")
    assert [forecast["series"] for forecast in answer["forecasts"]] == ["a", "b", "c"]
    assert [forecast["cutoff"][:10] for forecast in answer["forecasts"]] == ["2024-02-29", "2024-03-01", "2024-03-02"]
    for forecast in answer["forecasts"]:
        assert len(forecast["timestamps"]) == len(forecast["median"]) == 5
        table = np.array([forecast["quantiles"][key] for key in map(str, answer["quantile_levels"])])
        assert (np.diff(table, axis=0) >= 0).all()
        assert forecast["median"] == forecast["quantiles"]["0.5"]
    assert answer["forecasts"][0]["timestamps"][0] == "2024-03-01T00:00:00Z"


def test_some_series_a_shorter_horizon_other_levels(three: Client) -> None:
    answer = ask(three, series=["c", "a"], horizon=2, quantile_levels=[0.85, 0.2])
    assert sorted(forecast["series"] for forecast in answer["forecasts"]) == ["a", "c"]
    assert (answer["horizon"], answer["quantile_levels"]) == (2, [0.2, 0.85])
    whole = {forecast["series"]: forecast for forecast in ask(three)["forecasts"]}
    for forecast in answer["forecasts"]:
        assert list(forecast["quantiles"]) == ["0.2", "0.85"]
        assert forecast["median"] == pytest.approx(whole[forecast["series"]]["median"][:2], rel=1e-6)
        low, high = (whole[forecast["series"]]["quantiles"][key][0] for key in ("0.1", "0.25"))
        assert low <= forecast["quantiles"]["0.2"][0] <= high


@pytest.mark.parametrize("horizon", [2**63, 10**30, 10**4000])
def test_a_horizon_that_no_number_holds_is_the_clients_error(three: Client, horizon: int) -> None:
    """The answer names what was found, and a JSON writer of 64 bits could not: an error 500."""
    context = [{"id": "x", "start": "2024-01-01", "values": [1, 2]}]
    for body in ({"horizon": horizon}, {"horizon": horizon, "series": ["a"]}, {"horizon": horizon, "context": context}):
        answer = three.post("/v1/models/days/forecasts", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/horizon")
    assert three.get(f"/v1/models/days/forecasts?series=a&horizon={horizon}").status_code == 422


def test_as_of_a_cutoff_nothing_after_it_is_seen(client: Client, executor: Executor) -> None:
    train_days(client, executor)
    before = ask(client, series=["a"], cutoff="2024-02-10T18:00:00Z")["forecasts"][0]
    assert before["cutoff"] == "2024-02-10T00:00:00Z"
    later = [{"series": "a", "timestamp": f"2024-02-{day}", "value": 1e6} for day in range(11, 20)]
    assert client.post("/v1/datasets/days/observations", json={"observations": later}).status_code == 200
    assert ask(client, series=["a"], cutoff="2024-02-10T18:00:00Z")["forecasts"][0] == before
    assert ask(client, series=["a"])["forecasts"][0]["median"] != before["median"]


def test_an_inline_context_is_forecast_like_the_stored_series_and_not_stored(three: Client) -> None:
    stored = three.get("/v1/datasets/days/observations?series=b").json()["series"][0]["values"]
    context = [{"id": "x", "start": "2024-01-01T00:00:00Z", "values": [*stored, None]}]
    inline = ask(three, context=context)["forecasts"][0]
    assert inline["series"] == "x"
    expected = ask(three, series=["b"])["forecasts"][0]
    assert inline["cutoff"] == expected["cutoff"]
    assert inline["quantiles"] == expected["quantiles"]
    assert three.get("/v1/datasets/days/observations?series=x").status_code == 404


def test_pages_give_each_series_once(three: Client) -> None:
    names, cursor = [], ""
    while True:
        answer = three.get(f"/v1/models/days/forecasts?limit=1{cursor}").json()
        names += [forecast["series"] for forecast in answer["forecasts"]]
        if answer["next_cursor"] is None:
            break
        cursor = f"&cursor={answer['next_cursor']}"
    assert names == ["a", "b", "c"]
    rows = three.get("/v1/models/days/forecasts?limit=2&format=rows")
    again = three.get(f"/v1/models/days/forecasts?limit=2&format=rows&cursor={rows.headers['x-next-cursor']}")
    assert [row["series"] for row in rows.json() + again.json()] == [name for name in "abc" for _ in range(5)]
    last = three.get(f"/v1/models/days/forecasts?limit=2&format=rows&cursor={again.headers['x-next-cursor']}")
    assert (last.json(), "x-next-cursor" in last.headers) == ([], False)


def test_every_format_says_the_same(three: Client) -> None:
    columns = [
        "series",
        "timestamp",
        "median",
        *(f"q{q}" for q in (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)),
        "cutoff",
        "version",
    ]
    answer = ask(three)
    expected = [
        (forecast["series"], timestamp, forecast["median"][step], forecast["quantiles"]["0.9"][step])
        for forecast in answer["forecasts"]
        for step, timestamp in enumerate(forecast["timestamps"])
    ]
    path = "/v1/models/days/forecasts"
    csv = pl.read_csv(three.get(path, headers={"Accept": "text/csv"}).content)
    rows = pl.DataFrame(three.get(f"{path}?format=rows").json())
    for frame in (csv, rows):
        assert frame.columns == columns
        assert frame.select("series", "timestamp", "median", "q0.9").rows() == expected
    parquet = pl.read_parquet(io.BytesIO(three.get(path, headers={"Accept": PARQUET}).content))
    arrow = pl.read_ipc_stream(io.BytesIO(three.get(path, headers={"Accept": ARROW}).content))
    assert parquet.equals(arrow)
    text = pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert parquet.select("series", text, "median", "q0.9").rows() == expected
    assert parquet.columns == columns
    lines = three.get(path, headers={"Accept": "application/x-ndjson"}).text.splitlines()
    assert len(lines) == 3
    assert three.get(path, headers={"Accept": "application/pdf"}).status_code == 406


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        ({"horizon": 0}, 422, "invalid-request"),
        ({"horizon": 6}, 409, "horizon-too-long"),
        ({"quantile_levels": [0.01]}, 422, "quantile-out-of-range"),
        ({"quantile_levels": [0.0]}, 422, "invalid-request"),
        ({"series": ["nope"]}, 404, "not-found"),
        ({"series": ["empty"]}, 422, "context-too-short"),
        ({"series": ["a"], "cutoff": "2023-01-01"}, 422, "context-too-short"),
        ({"series": ["a"], "cutoff": 7}, 422, "invalid-request"),
        ({"cutoff": "soon"}, 422, "invalid-request"),
        ({"version": 7}, 404, "not-found"),
        ({"version": "challenger"}, 404, "not-found"),
        ({"levels": [0.5]}, 422, "invalid-request"),
        ({"context": [{"id": "x", "start": "2024-01-01T05:00:00Z", "values": [1.0]}]}, 422, "off-grid"),
        ({"context": [{"id": "x", "start": "2024-01-01T00:00:00Z", "values": [None]}]}, 422, "context-too-short"),
        ({"context": [{"id": "x", "start": "2024-01-01T00:00:00Z", "values": [True]}]}, 422, "invalid-request"),
        ({"context": [{"id": "x", "start": "2024-01-01T00:00:00Z", "values": []}]}, 422, "invalid-request"),
        ({"context": [{"id": "x", "start": "2024-01-01T00:00:00Z", "values": [1]}], "series": ["a"]}, 422, "invalid-request"),
    ],
)
def test_what_cannot_be_forecast_is_said(three: Client, body: dict[str, Any], status: int, slug: str) -> None:
    answer = three.post("/v1/models/days/forecasts", json=body)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{slug}"), answer.text


def test_before_any_version_the_training_under_way_is_named(client: Client) -> None:
    assert client.post("/v1/models/air/forecasts").status_code == 404
    client.post_air()
    training = client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 6}).json()
    answer = client.post("/v1/models/air/forecasts")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/no-trained-version")
    assert answer.json()["training"] == training["id"]


def test_integer_steps_go_in_and_out(client: Client, executor: Executor) -> None:
    rows = [{"series": "s", "timestamp": step, "value": float(step % 5)} for step in range(40)]
    client.put("/v1/datasets/steps", json={"freq": "step"})
    assert client.post("/v1/datasets/steps/observations", json={"observations": rows}).status_code == 200
    client.train(executor, "steps", dataset="steps", horizon=3, **QUICK)
    answer = client.get("/v1/models/steps/forecasts?cutoff=29").json()
    assert answer["forecasts"][0]["cutoff"] == 29
    assert answer["forecasts"][0]["timestamps"] == [30, 31, 32]
