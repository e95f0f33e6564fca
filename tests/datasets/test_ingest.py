"""Posting over HTTP: what goes in comes back in every format, twice is once, and a receipt tells the truth."""

import io
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.calendar import Grid, infer
from app.database import Database
from app.datasets import formats
from app.errors import FreqUndetermined
from app.tables import Series

Points = dict[tuple[str, str], float | None]
"""(series, timestamp) -> value."""
fresh = (f"d{number}" for number in count())


def to_frame(points: Points, zone: str | None = "UTC") -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "series": [series for series, _ in points],
            "timestamp": [datetime.fromisoformat(timestamp).replace(tzinfo=UTC) for _, timestamp in points],
            "value": list(points.values()),
        },
        schema={"series": pl.String, "timestamp": pl.Datetime("us", "UTC"), "value": pl.Float64},
    )
    return frame.with_columns(pl.col("timestamp").dt.replace_time_zone(zone))


def to_rows(points: Points) -> list[dict[str, Any]]:
    return [{"series": series, "timestamp": timestamp, "value": value} for (series, timestamp), value in points.items()]


def to_parquet(points: Points) -> bytes:
    buffer = io.BytesIO()
    to_frame(points).write_parquet(buffer)
    return buffer.getvalue()


def to_arrow(points: Points) -> bytes:
    buffer = io.BytesIO()
    to_frame(points).with_columns(pl.col("series").cast(pl.Categorical)).write_ipc_stream(buffer)
    return buffer.getvalue()


def to_csv(points: Points) -> bytes:
    return to_frame(points).with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv().encode()


WRITERS: dict[str, Callable[[Points], bytes]] = {
    formats.JSON: lambda points: orjson.dumps({"observations": to_rows(points)}),
    formats.NDJSON: lambda points: b"\n".join(orjson.dumps(row) for row in to_rows(points)),
    formats.CSV: to_csv,
    formats.PARQUET: to_parquet,
    formats.ARROW: to_arrow,
}


def post(client: Any, dataset: str, body: bytes | str | dict[str, Any], media_type: str = formats.JSON, query: str = "") -> Any:
    content = orjson.dumps(body) if isinstance(body, dict) else body
    return client.post(f"/v1/datasets/{dataset}/observations{query}", content=content, headers={"content-type": media_type})


def post_csv(client: Any, dataset: str, text: str, query: str = "") -> dict[str, Any]:
    answer = post(client, dataset, text, formats.CSV, query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def read_back(client: Any, dataset: str, media_type: str = formats.JSON, query: str = "") -> Points:
    answer = client.get(f"/v1/datasets/{dataset}/observations{query}", headers={"accept": media_type})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith(media_type)
    if media_type == formats.JSON:
        series = answer.json()["series"]
        return {(s["id"], t): v for s in series for t, v in zip(s["timestamps"], s["values"], strict=True)}
    if media_type == formats.CSV:
        frame = pl.read_csv(answer.content, schema={"series": pl.String, "timestamp": pl.String, "value": pl.Float64})
    else:
        reader = pl.read_parquet if media_type == formats.PARQUET else pl.read_ipc_stream
        frame = reader(io.BytesIO(answer.content)).with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return {(row[0], row[1]): row[2] for row in frame.rows()}


names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
doubles = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-999, 999).map(lambda cents: cents / 100)


@st.composite
def observed(draw: st.DrawFn) -> Points:
    """Some hours of some series, in any order."""
    keys = draw(st.lists(st.tuples(names, st.integers(0, 3000)), min_size=1, max_size=30, unique=True))
    return {(name, str(np.datetime64("2024-01-01T00:00:00") + hour * 3600) + "Z"): draw(doubles) for name, hour in keys}


@pytest.mark.parametrize("media_type", WRITERS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(points=observed())
def test_what_is_posted_is_read_back_bit_for_bit(client: Any, media_type: str, points: Points) -> None:
    dataset = next(fresh)
    client.put(f"/v1/datasets/{dataset}", json={"freq": "h"})
    receipt = post(client, dataset, WRITERS[media_type](points), media_type)
    assert receipt.status_code == 200, receipt.text
    assert receipt.json()["inserted"] == len(points)
    found = read_back(client, dataset)
    assert found == points
    assert [str(value) for value in found.values()] == [str(points[key]) for key in found]  # -0.0 is not 0.0


def test_every_answer_holds_the_same(client: Any) -> None:
    points: Points = {
        ('ä, "b"', "2024-01-01T00:00:00Z"): 0.1,
        ('ä, "b"', "2024-01-01T01:00:00Z"): None,
        ('ä, "b"', "2024-01-01T03:00:00Z"): -0.0,
        ("1", "2023-12-31T23:00:00Z"): 1.7976931348623157e308,
    }
    assert post(client, "a", WRITERS[formats.JSON](points)).status_code == 200
    for media_type in (formats.JSON, formats.CSV, formats.PARQUET, formats.ARROW):
        found = read_back(client, "a", media_type)
        assert found == points
        assert list(found) == sorted(found)


def test_the_same_request_twice_changes_nothing(client: Any, database: Database) -> None:
    body = WRITERS[formats.CSV](
        {("a", "2024-01-01T00:00:00Z"): 1.0, ("a", "2024-01-02T00:00:00Z"): None, ("b", "2024-01-03T00:00:00Z"): 2.0}
    )
    first = post(client, "a", body, formats.CSV).json()
    with database.read() as session:
        before = session.execute(sa.select(Series.__table__)).all()
        created = client.get("/v1/datasets/a").json()
    second = post(client, "a", body, formats.CSV).json()
    with database.read() as session:
        assert session.execute(sa.select(Series.__table__)).all() == before
    assert client.get("/v1/datasets/a").json() == created
    assert (first["inserted"], first["unchanged"], second["inserted"], second["updated"], second["unchanged"]) == (
        3,
        0,
        0,
        0,
        3,
    )
    assert {row.revision for row in before} == {1}


def test_a_receipt_counts_what_happened(client: Any) -> None:
    post_csv(client, "a", "timestamp,value\n2024-01-01,1\n2024-01-02,2\n2024-01-03,\n")
    receipt = post_csv(client, "a", "timestamp,value\n2024-01-02,2\n2024-01-03,3\n2024-01-06,\n2024-01-05,5\n")
    assert receipt == {
        "dataset": "a",
        "freq": "D",
        "series": 1,
        "received": 4,
        "inserted": 2,
        "updated": 1,
        "unchanged": 1,
        "missing": 1,
        "gaps": 1,
        "first_timestamp": "2024-01-02T00:00:00Z",
        "last_timestamp": "2024-01-06T00:00:00Z",
        "warnings": [],
    }
    series = client.get("/v1/datasets/a/series").json()["items"]
    assert series == [
        {
            "id": "a",
            "count": 5,
            "missing": 1,
            "first_timestamp": "2024-01-01T00:00:00Z",
            "last_timestamp": "2024-01-06T00:00:00Z",
        }
    ]


def test_only_a_value_moves_the_cutoff_and_a_null_in_its_place_moves_it_back(client: Any, database: Database) -> None:
    def cutoffs() -> list[int | None]:
        with database.read() as session:
            return list(session.scalars(sa.select(Series.cutoff_step).order_by(Series.name)))

    day = Grid("D").step_at_or_before(datetime(2024, 1, 1, tzinfo=UTC))
    post_csv(client, "a", "series,timestamp,value\na,2024-01-01,1\na,2024-01-02,2\na,2024-01-03,\nb,2024-01-03,\n")
    assert cutoffs() == [day + 1, None]
    post_csv(client, "a", "series,timestamp,value\na,2024-01-02,\nb,2020-01-03,1\n")
    assert cutoffs() == [day, day - 1459]
    post_csv(client, "a", "series,timestamp,value\na,2024-01-01,\na,2029-01-01,4\na,2029-01-02,\n")
    assert cutoffs()[0] == day + 1827
    post_csv(client, "a", "series,timestamp,value\na,2029-01-01,\n")
    assert cutoffs()[0] is None


def test_on_conflict_replaces_keeps_or_refuses(client: Any) -> None:
    post_csv(client, "a", "timestamp,value\n2024-01-01,1\n2024-01-02,2\n")
    change = "timestamp,value\n2024-01-02,9\n2024-01-03,3\n"
    refused = post(client, "a", change, formats.CSV, "?on_conflict=error")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/conflict")
    assert refused.json()["errors"] == [{"row": 2, "column": "timestamp", "detail": "2024-01-02T00:00:00Z holds 2.0 already"}]
    assert len(read_back(client, "a")) == 2
    kept = post_csv(client, "a", change, "?on_conflict=keep")
    assert (kept["inserted"], kept["updated"], kept["unchanged"]) == (1, 0, 1)
    assert list(read_back(client, "a").values()) == [1.0, 2.0, 3.0]
    assert post_csv(client, "a", change)["updated"] == 1
    assert list(read_back(client, "a").values()) == [1.0, 9.0, 3.0]
    assert post(client, "a", change, formats.CSV, "?on_conflict=error").status_code == 200  # nothing differs
    assert post(client, "a", change, formats.CSV, "?on_conflict=other").status_code == 422


def test_the_compact_form_walks_from_its_start(client: Any) -> None:
    series = [
        {"id": "a", "start": "2024-02-28", "freq": "D", "values": [1, None, 3]},
        {"id": "b", "start": "2024-03-01T00:00:00Z", "values": [4]},
    ]
    receipt = post(client, "c", {"series": series}).json()
    assert (receipt["received"], receipt["inserted"], receipt["missing"], receipt["gaps"]) == (4, 4, 1, 0)
    assert list(read_back(client, "c")) == [
        ("a", "2024-02-28T00:00:00Z"),
        ("a", "2024-02-29T00:00:00Z"),
        ("a", "2024-03-01T00:00:00Z"),
        ("b", "2024-03-01T00:00:00Z"),
    ]
    steps = {"series": [{"id": "a", "start": -2, "freq": "step", "values": [1.5, 2.5]}]}
    assert post(client, "steps", steps).json()["last_timestamp"] == -1
    assert list(read_back(client, "steps")) == [("a", -2), ("a", -1)]


def test_integers_are_steps_where_they_look_like_no_time(client: Any) -> None:
    assert post_csv(client, "a", "unique_id,ds,y\n7,1,1.5\n7,2,2.5\n")["freq"] == "step"
    assert read_back(client, "a", formats.JSON, "?series=7&start=2") == {("7", 2): 2.5}


def test_an_aggregate_folds_a_requests_points_into_their_step(client: Any) -> None:
    text = "timestamp,value\n2024-01-01T01:59:59Z,\n2024-01-01T01:30:00Z,3\n2024-01-01T01:00:00Z,2\n2024-01-01T03:01:00Z,\n"
    for how, expected in {"mean": 2.5, "sum": 5.0, "min": 2.0, "max": 3.0, "last": 3.0}.items():
        client.put(f"/v1/datasets/{how}", json={"freq": "h", "aggregate": how})
        receipt = post_csv(client, how, text)
        assert (receipt["received"], receipt["inserted"]) == (4, 2)
        assert read_back(client, how) == {(how, "2024-01-01T01:00:00Z"): expected, (how, "2024-01-01T03:00:00Z"): None}
        assert post_csv(client, how, "timestamp,value\n2024-01-01T01:10:00Z,7\n")["updated"] == 1


def test_a_local_day_is_a_step_and_naive_times_are_local(client: Any) -> None:
    client.put("/v1/datasets/a", json={"time_zone": "Europe/Berlin"})
    days = "\n".join(f"2024-{month:02}-{day:02},1" for month, day in [(3, 30), (3, 31), (4, 1), (10, 26), (10, 27), (10, 28)])
    assert post_csv(client, "a", f"date,value\n{days}\n")["freq"] == "D"
    assert [timestamp for _, timestamp in read_back(client, "a")][:3] == [
        "2024-03-29T23:00:00Z",
        "2024-03-30T23:00:00Z",
        "2024-03-31T22:00:00Z",
    ]
    assert post_csv(client, "a", "date,value\n2024-04-01T22:00:00Z,2\n")["inserted"] == 1
    assert list(read_back(client, "a", query="?series=a&start=2024-04-02&end=2024-04-02")) == [("a", "2024-04-01T22:00:00Z")]


def test_naive_hours_pass_both_changes_of_the_clock(client: Any) -> None:
    client.put("/v1/datasets/a", json={"freq": "h", "time_zone": "Europe/Berlin"})
    autumn = ["2024-10-27 01:00:00", "2024-10-27 02:00:00", "2024-10-27 02:00:00", "2024-10-27 03:00:00"]
    receipt = post_csv(client, "a", "timestamp,value\n" + "".join(f"{hour},{k}\n" for k, hour in enumerate(autumn)))
    assert (receipt["inserted"], receipt["gaps"]) == (4, 0)
    assert list(read_back(client, "a").values()) == [0.0, 1.0, 2.0, 3.0]
    spring = post(client, "a", "timestamp,value\n2024-03-31 01:00:00,1\n2024-03-31 02:00:00,2\n", formats.CSV)
    assert spring.status_code == 422
    assert spring.json()["errors"][0]["row"] == 3
    assert "does not exist in Europe/Berlin" in spring.json()["detail"]


def test_columns_have_their_usual_names_or_those_in_the_query(client: Any) -> None:
    assert post_csv(client, "a", "Item_ID,DS,Target\nx,2024-01-01,1\nx,2024-01-02,1\n")["inserted"] == 2
    odd = "shop,day,sales,weather\nx,2024-01-03,1,rain\n"
    query = "?series_column=shop&timestamp_column=day&value_column=sales"
    refused = post(client, "a", odd, formats.CSV, query)
    assert refused.status_code == 422
    assert refused.json()["errors"] == [{"column": "weather", "detail": "this column would not be read"}]
    assert post_csv(client, "a", odd, f"{query}&ignore_columns=true")["inserted"] == 1
    rows = b'{"shop": "x", "day": "2024-01-04", "sales": 2, "more": [1]}\n\n{"day": "2024-01-05", "shop": "x", "sales": null}\n'
    answer = post(client, "a", rows, formats.NDJSON, f"{query}&ignore_columns=true")
    assert answer.json()["inserted"] == 2


def test_datetimes_of_every_unit_and_zone_mean_the_same(client: Any) -> None:
    expected = {("a", "2024-01-01T00:00:00Z"): 1.0, ("a", "2024-01-01T01:00:00Z"): 2.0}
    hours = pl.Series("timestamp", [datetime(2024, 1, 1, 0), datetime(2024, 1, 1, 1)])  # noqa: DTZ001
    for unit in ("ms", "us", "ns"):
        for zone in (None, "UTC", "Asia/Kathmandu"):
            column = (
                hours.cast(pl.Datetime(unit))
                if zone is None
                else hours.cast(pl.Datetime(unit)).dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
            )
            buffer = io.BytesIO()
            pl.DataFrame([column, pl.Series("value", [1, 2], dtype=pl.Int16)]).write_parquet(buffer)
            dataset = next(fresh)
            assert post(client, dataset, buffer.getvalue(), formats.PARQUET).status_code == 200
            assert {("a", timestamp): value for (_, timestamp), value in read_back(client, dataset).items()} == expected


def test_equal_rows_are_stored_once_with_a_warning(client: Any) -> None:
    receipt = post_csv(client, "a", "timestamp,value\n2024-01-01,1\n2024-01-02,\n2024-01-02,\n2024-01-01,1.0\n")
    assert (receipt["received"], receipt["inserted"]) == (4, 2)
    assert receipt["warnings"] == ["2 observations were sent more than once with the same value"]


def test_an_inferred_freq_that_leaves_most_steps_empty_is_worth_a_warning(client: Any) -> None:
    receipt = post_csv(client, "a", "timestamp,value\n2024-01-01T00:00:00Z,1\n2024-01-01T00:00:07Z,2\n2024-01-01T10:00:02Z,1\n")
    assert receipt["freq"] == "s"
    assert "only 0.0083 % of its steps" in receipt["warnings"][0]


def test_the_grid_is_kept_with_the_dataset(client: Any) -> None:
    for grid in (
        Grid("MS", 14 * 86_400_000_000, "Europe/Berlin"),
        Grid("W-THU", 3_600_000_000),
        Grid("15min", 420_000_000),
        Grid("B"),
    ):
        dataset = next(fresh)
        labels = grid.to_labels(np.arange(2800, 2830))
        client.put(f"/v1/datasets/{dataset}", json={"time_zone": grid.time_zone})
        post_csv(client, dataset, "timestamp,value\n" + "".join(f"{label},1\n" for label in labels))
        found = client.get(f"/v1/datasets/{dataset}").json()
        assert (found["freq"], found["phase_seconds"]) == (grid.freq, grid.phase_us / 1e6)
        assert [timestamp for _, timestamp in read_back(client, dataset)] == labels


def test_the_order_of_rows_does_not_matter(client: Any) -> None:
    random = np.random.default_rng(1)
    points: Points = {
        (f"s{k}", str(np.datetime64("2024-01-01T00:00:00") + 60 * int(m)) + "Z"): float(k)
        for k in range(5)
        for m in range(2500)
    }
    keys = list(points)
    shuffled = {keys[k]: points[keys[k]] for k in random.permutation(len(keys))}
    assert post(client, "a", to_parquet(shuffled), formats.PARQUET).json()["gaps"] == 0
    assert read_back(client, "a", formats.PARQUET) == points


def test_no_freq_from_one_point_but_with_a_given_one(client: Any) -> None:
    one = "timestamp,value\n2024-01-01,1\n"
    refused = post(client, "a", one, formats.CSV)
    assert refused.json()["type"] == "/problems/freq-undetermined"
    assert client.get("/v1/datasets/a").status_code == 404
    with pytest.raises(FreqUndetermined):
        infer(np.zeros(1, np.int64), "UTC")
    client.put("/v1/datasets/a", json={"freq": "D"})
    assert post_csv(client, "a", one)["freq"] == "D"
