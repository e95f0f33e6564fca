"""However a forecast is asked for, it is the same: alone, in a batch, from the cache, as a page, as a stream, with its context sent along."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.training.execution import Executor
from tests.conftest import QUICK, Client

PATH = "/v1/models/paths/forecasts"
START = "2024-01-01T00:00:00Z"
COUNT = 6


@pytest.fixture(scope="module")
def trained(kept: tuple[Client, Executor]) -> Client:
    client, executor = kept
    post(client, make_series(0))
    result = client.train(executor, "paths", dataset="paths", horizon=9, **QUICK)
    assert result["status"] == "succeeded", result
    return client


def make_series(seed: int) -> list[list[float | None]]:
    """Of unlike lengths and scales, with gaps up to most of their steps, and nulls at their ends."""
    random = np.random.default_rng(seed)
    series = []
    for _ in range(COUNT):
        length = int(random.integers(3, 200))
        values = 10.0 ** random.integers(-3, 6) * (
            2 + np.sin(np.arange(length) * 2 * np.pi / 7) + random.normal(0, 0.3, length)
        )
        values[random.random(length) < random.choice([0.0, 0.1, 0.8])] = np.nan
        values[random.integers(length)] = 1.0
        series.append([None if np.isnan(value) else float(value) for value in values])
    return series


def post(client: Client, series: list[list[float | None]]) -> None:
    client.delete("/v1/datasets/paths/observations", params={"series": [f"s{number}" for number in range(COUNT)]})
    body = [{"id": f"s{number}", "start": START, "freq": "D", "values": values} for number, values in enumerate(series)]
    answer = client.post("/v1/datasets/paths/observations", json={"series": body})
    assert answer.status_code == 200, answer.text


def ask(client: Client, **body: Any) -> list[dict[str, Any]]:
    answer = client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["forecasts"])


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (one["cutoff"], one["timestamps"], one["warnings"]) == (other["cutoff"], other["timestamps"], other["warnings"])
    assert list(one["quantiles"]) == list(other["quantiles"])
    for name in one["quantiles"]:
        values, others = np.array(one["quantiles"][name]), np.array(other["quantiles"][name])
        np.testing.assert_allclose(values, others, rtol=1e-5, atol=1e-5 * np.abs(values).max())
    np.testing.assert_allclose(one["median"], other["median"], rtol=1e-5, atol=1e-5 * np.abs(one["median"]).max())


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(1, 2**32))
def test_every_path_gives_the_same_forecast(trained: Client, seed: int) -> None:
    series = make_series(seed)
    post(trained, series)
    names = [f"s{number}" for number in range(COUNT)]
    alone = {name: ask(trained, series=[name])[0] for name in names}
    contexts = [{"id": f"s{number}", "start": START, "values": values} for number, values in enumerate(series)]
    with ThreadPoolExecutor(COUNT) as pool:
        batched = [each[0] for each in pool.map(lambda context: ask(trained, context=[context]), contexts)]
    lines = [json.loads(line) for line in trained.get(PATH, headers={"Accept": "application/x-ndjson"}).text.splitlines()]
    for found in (ask(trained), ask(trained, series=names), ask(trained, context=contexts), batched, lines):
        assert [one["series"] for one in found] == names
        for one in found:
            assert_same(one, alone[one["series"]])
    table = pl.read_csv(trained.get(PATH, headers={"Accept": "text/csv"}).content)
    arrow = pl.read_ipc_stream(io.BytesIO(trained.get(PATH, headers={"Accept": "application/vnd.apache.arrow.stream"}).content))
    expected = np.concatenate([alone[name]["quantiles"]["0.9"] for name in names])
    for frame in (table, arrow):
        np.testing.assert_allclose(frame["q0.9"], expected, rtol=1e-4)


def test_the_cache_gives_the_same_bytes_until_something_changes(trained: Client) -> None:
    post(trained, make_series(1))

    def post_forecast() -> httpx.Response:
        return trained.post(PATH, json={"series": ["s0", "s1"]})

    def get_forecast() -> httpx.Response:
        return trained.get(f"{PATH}?series=s0&series=s1&horizon=4")

    for send in (post_forecast, get_forecast):
        first, again = send(), send()
        assert (first.status_code, first.content, first.headers["etag"]) == (200, again.content, again.headers["etag"])
        tag = {"If-None-Match": f'"other", {first.headers["etag"]}'}
        path, options = (
            (PATH, {"json": {"series": ["s0", "s1"]}}) if send is post_forecast else (str(first.url.raw_path, "ascii"), {})
        )
        still = trained.request(first.request.method, path, headers=tag, **options)
        assert (still.status_code, still.content, still.headers["etag"]) == (304, b"", first.headers["etag"])
        other = {"observations": [{"series": "s5", "timestamp": "2025-01-01", "value": 1.0}]}
        assert trained.post("/v1/datasets/paths/observations", json=other).status_code == 200
        assert send().content == first.content
        mine = {"observations": [{"series": "s1", "timestamp": "2025-01-01", "value": float(send is get_forecast)}]}
        assert trained.post("/v1/datasets/paths/observations", json=mine).status_code == 200
        changed = trained.request(first.request.method, path, headers=tag, **options)
        assert (changed.status_code, changed.headers["etag"] != first.headers["etag"]) == (200, True)
        assert changed.json()["forecasts"][1]["cutoff"][:10] == "2025-01-01"


def test_a_large_request_is_answered_in_order_while_small_ones_pass(trained: Client) -> None:
    contexts = [{"id": str(number), "start": START, "values": [1.0, 2.0, float(number)]} for number in range(300)]
    with ThreadPoolExecutor(9) as pool:
        large = pool.submit(ask, trained, context=contexts)
        small = [pool.submit(ask, trained, context=[contexts[number]]) for number in range(8)]
        found = large.result()
        assert [one["series"] for one in found] == [one["id"] for one in contexts]
        for number, each in enumerate(small):
            assert_same(each.result()[0], found[number])
