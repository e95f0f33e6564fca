"""A series thinned to a screen hides nothing that sticks out, and a preview stores nothing."""

import io

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from app.datasets.chunks import ABSENT, NULL
from app.datasets.overview import MAX_HOLES, find_holes, thin
from tests.conftest import AIR_CSV, Client

STEPS = 5000
CSV = {"Content-Type": "text/csv"}


@given(st.integers(0, 2**32), st.integers(1, 3000), st.integers(4, 400), st.floats(0, 1))
def test_thinned_values_reach_as_far_as_all_of_them(seed: int, length: int, max_points: int, share: float) -> None:
    random = np.random.default_rng(seed)
    values = random.standard_cauchy(length)
    values[random.random(length) < share] = ABSENT
    kept = thin(values, max_points)
    assert len(kept) <= max(max_points, 4)
    assert (np.diff(kept) > 0).all()
    seen = np.flatnonzero(~np.isnan(values))
    if len(seen):
        assert {seen[0], seen[-1]} <= set(kept.tolist())
        assert (np.nanmin(values[kept]), np.nanmax(values[kept])) == (np.nanmin(values), np.nanmax(values))


def test_each_stretch_keeps_its_own_extremes() -> None:
    values = np.random.default_rng(1).normal(size=1000)
    kept = thin(values, 40)
    for start in range(0, 1000, 100):
        stretch, held = values[start : start + 100], values[kept[(kept >= start) & (kept < start + 100)]]
        assert (held.min(), held.max(), held[0], held[-1]) == (stretch.min(), stretch.max(), stretch[0], stretch[-1])


def test_holes_are_runs_and_say_what_was_never_sent() -> None:
    values = np.array([1.0, NULL, ABSENT, 2.0, ABSENT, 3.0, NULL])
    starts, ends, absent = find_holes(values)
    assert (starts.tolist(), ends.tolist(), absent.tolist()) == ([1, 4, 6], [2, 4, 6], [1, 1, 0])
    many = np.ones(4 * MAX_HOLES)
    many[1::2] = ABSENT
    many[100:150] = 1.0
    starts, ends, absent = find_holes(many)
    assert len(starts) == MAX_HOLES
    assert absent.sum() == np.isnan(many).sum()
    assert {99} <= set(ends.tolist()), "the widest stretch with values stays"
    assert {151} <= set(starts.tolist())


def test_overview_of_a_long_series_and_of_a_part(client: Client) -> None:
    days = np.datetime64("2010-01-01", "us") + np.arange(STEPS) * np.timedelta64(1, "D")
    values = pl.Series(np.sin(np.arange(STEPS) / 7)).scatter([1234], [50.0]).scatter([3000, 3001], None)
    frame = pl.DataFrame({"timestamp": days, "value": values}).filter(pl.int_range(STEPS).is_between(2000, 2009).not_())
    body = io.BytesIO()
    frame.write_parquet(body)
    parquet = {"Content-Type": "application/vnd.apache.parquet"}
    assert client.post("/v1/datasets/long/observations", content=body.getvalue(), headers=parquet).status_code == 200
    path = "/v1/datasets/long/overview"
    whole = client.get(path, params={"series": "long", "max_points": 400}).json()
    assert (whole["steps"], whole["thinned"], max(value or 0 for value in whole["values"])) == (STEPS, True, 50.0)
    assert len(whole["timestamps"]) == len(whole["values"]) <= 400
    assert [(hole["start"][:10], hole["end"][:10], hole["absent"]) for hole in whole["holes"]] == [
        ("2015-06-24", "2015-07-03", 10),
        ("2018-03-20", "2018-03-21", 0),
    ]
    part = client.get(path, params={"series": "long", "start": "2015-06-20", "end": "2015-07-05"}).json()
    assert (part["steps"], part["thinned"], part["values"][4:14]) == (16, False, [None] * 10)
    after = client.get(path, params={"series": "long", "start": "2031-01-01"}).json()
    assert (after["steps"], after["values"], after["holes"]) == (0, [], [])
    assert client.get(path, params={"series": "other"}).status_code == 404
    assert client.get("/v1/datasets/long").json()["last_timestamp"] == "2023-09-09T00:00:00Z"


def test_a_preview_says_what_would_happen_and_stores_nothing(client: Client) -> None:
    path = "/v1/datasets/air/observations"
    told = client.post(f"{path}/preview", content=AIR_CSV.read_bytes(), headers=CSV).json()
    assert told["columns"] == {"series": None, "timestamp": "timestamp", "value": "value"}
    assert told["observations"][0] == {"series": "air", "timestamp": "1949-01-01T00:00:00Z", "value": 112.0}
    assert client.get("/v1/datasets/air").status_code == 404
    stored = client.post(path, content=AIR_CSV.read_bytes(), headers=CSV).json()
    assert told["receipt"] == stored
    again = client.post(f"{path}/preview", content=b"timestamp,value\n1949-01-01,113\n1961-01-01,1\n", headers=CSV).json()
    assert (again["receipt"]["updated"], again["receipt"]["inserted"]) == (1, 1)
    assert client.get("/v1/datasets/air").json()["observations"] == 144
    bad = client.post(f"{path}/preview", content=b"timestamp,value\n1949-01-01,x\n", headers=CSV)
    assert (bad.status_code, bad.json()["errors"][0]["row"]) == (422, 2)
    rows = {"observations": [{"series": "b", "timestamp": "1949-01-01", "value": None}]}
    told = client.post(f"{path}/preview", json=rows).json()
    assert (told["columns"], told["observations"]) == (
        None,
        [{"series": "b", "timestamp": "1949-01-01T00:00:00Z", "value": None}],
    )
