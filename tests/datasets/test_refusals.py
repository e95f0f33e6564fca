"""What bad input gets: the contract's status, a problem that names the place, nothing stored, and the next request served."""

import io
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from app.database import Database
from app.datasets import formats, timestamps
from app.datasets.bounds import Bounds
from app.datasets.columns import ColumnOptions
from app.datasets.observations import number_distinct
from app.errors import BodyTooLarge, EngramError, InvalidObservations, UnsupportedMediaType
from app.tables import Chunk, Dataset, Series

HOURS = "2024-01-01T00:00:00Z", "2024-01-01T01:00:00Z"
GOOD = b"timestamp,value\n2024-01-01,1\n2024-01-02,2\n"


def parse(body: bytes | str | object, media_type: str = formats.JSON, **options: Any) -> Any:
    content = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else orjson.dumps(body)
    return formats.parse(content, media_type, ColumnOptions(**options), "d")


def refuse(body: bytes | str | object, media_type: str = formats.JSON, **options: Any) -> EngramError:
    with pytest.raises(EngramError) as caught:
        parse(body, media_type, **options)
    assert caught.value.status in (413, 415, 422)
    return caught.value


def to_parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


def row(**changes: Any) -> dict[str, Any]:
    return {"series": "a", "timestamp": HOURS[0], "value": 1.0, **changes}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"observations": [row(), row(value="1")]}, "#/observations/1/value"),
        ({"observations": [row(value=True)]}, "#/observations/0/value"),
        ({"observations": [row(value=[1])]}, "#/observations/0/value"),
        ({"observations": [row(), row(timestamp="soon")]}, "#/observations/1/timestamp"),
        ({"observations": [row(timestamp=None)]}, "#/observations/0/timestamp"),
        ({"observations": [row(timestamp=True)]}, "#/observations/0/timestamp"),
        ({"observations": [row(timestamp=1), row(timestamp="2024-01-01")]}, "#/observations/1/timestamp"),
        ({"observations": [row(timestamp=2**63)]}, "#/observations/0/timestamp"),
        ({"observations": [row(timestamp=10**18)]}, "#/observations/0/timestamp"),
        ({"observations": [row(timestamp="0001-01-01")]}, "#/observations/0/timestamp"),
        ({"observations": [row(series="x" * 300)]}, "#/observations/0/series"),
        ({"observations": [row(series="a\nb")]}, "#/observations/0/series"),
        ({"observations": [row(series="")]}, "#/observations/0/series"),
        ({"observations": [row(), row(series=5)]}, "#/observations/1/series"),
        ({"observations": [row(), {**row(), "colour": "red"}]}, "#/observations/1"),
        ({"observations": [row(), {"series": "a", "timestamp": HOURS[0]}]}, "#/observations/1"),
        ({"observations": [row(), 5]}, "#/observations/1"),
        ({"observations": [5]}, "#/observations/0"),
        ({"observations": []}, "#/observations"),
        ({"observations": {}}, "#/observations"),
        ({"rows": []}, "#"),
        ({"series": [], "observations": []}, "#"),
        ([], "#"),
        (b'{"observations": [{"series": "a", "timestamp": "2024-01-01", "value": NaN}]}', "#/observations/0/value"),
        (b'{"observations": [{"series": "a", "timestamp": "2024-01-01", "value": 1e400}]}', "#/observations/0/value"),
        (b'{"series": [{"id": "a", "start": "2024-01-01", "values": [1, -Infinity]}]}', "#/series/0/values/1"),
        (b'{"observations": [{"series": "\\ud800", "timestamp": "2024-01-01", "value": 1}]}', "#"),
        (b'{"observations": ' + b"[" * 100_000, "#"),
        (b"{", "#"),
        (b"\xff\xfe", "#"),
        (b" ", "#"),
        ({"series": [{"id": "a", "start": HOURS[0], "values": [1, "2"]}]}, "#/series/0/values/1"),
        ({"series": [{"id": "a", "start": HOURS[0], "values": [True]}]}, "#/series/0/values/0"),
        ({"series": [{"id": "a", "start": HOURS[0], "values": []}]}, "#/series/0/values"),
        ({"series": [{"id": "a", "start": "x", "values": [1]}]}, "#/series/0/start"),
        ({"series": [{"id": "a", "start": 1.5, "values": [1]}]}, "#/series/0/start"),
        ({"series": [{"id": "a", "start": True, "values": [1]}]}, "#/series/0/start"),
        (
            {"series": [{"id": "a", "start": 1, "values": [1]}, {"id": "a", "start": "2024-01-01", "values": [1]}]},
            "#/series/1/start",
        ),
        ({"series": [{"id": "a", "start": HOURS[0], "values": [1], "freq": "hourly"}]}, "#/series/0/freq"),
        ({"series": [{"id": "a", "start": HOURS[0], "values": [1], "freq": f} for f in ("h", "D")]}, "#/series"),
        ({"series": [{"id": "a" * 257, "start": HOURS[0], "values": [1]}]}, "#/series/0/id"),
        ({"series": [{"id": "a", "start": HOURS[0], "values": [1], "unit": "m"}]}, "#/series/0/unit"),
        ({"series": [{"id": "a", "values": [1]}]}, "#/series/0/start"),
        ({"series": []}, "#/series"),
    ],
)
def test_json_is_refused_by_its_pointer(body: object, place: str) -> None:
    error = refuse(body)
    assert isinstance(error, InvalidObservations)
    assert error.errors[0]["pointer"] == place
    assert place in error.detail


@pytest.mark.parametrize(
    ("text", "row", "column"),
    [
        ("timestamp,value\n2024-01-01,1\n2024-01-02,abc\n", 3, "value"),
        ("timestamp,value\n2024-01-01,1\n\n\n2024-01-02,abc\n", 5, "value"),
        ("\n\ntimestamp,value\n2024-01-01,1,\n", 4, None),
        ("timestamp,value\n2024-01-01,nan\n", 2, "value"),
        ("timestamp,value\n2024-01-01,-inf\n", 2, "value"),
        ("timestamp,value\n2024-01-01,1e400\n", 2, "value"),
        ("timestamp,value\n2024-01-01,true\n", 2, "value"),
        ('timestamp,value\n2024-01-01,"1,5"\n', 2, "value"),
        ("timestamp,value\n2024-01-01,1\n01/02/2024,2\n", 3, "timestamp"),
        ("timestamp,value\n2024-01-01,1\n,2\n", 3, "timestamp"),
        ("timestamp,value\n2024-02-30,1\n", 2, "timestamp"),
        ("timestamp,value\n1,1\n2024-01-01,1\n", 3, "timestamp"),
        ("timestamp,value\n1,1\n99999999999999999999,1\n", 3, "timestamp"),
        ("series,timestamp,value\na,2024-01-01,1\n,2024-01-01,1\n", 3, "series"),
        (f"series,timestamp,value\n{'x' * 300},2024-01-01,1\n", 2, "series"),
        ('series,timestamp,value\n"a\x07",2024-01-01,1\n', 2, "series"),
        ("timestamp,value\n2024-01-01,1\n2024-01-02\n", 3, None),
        ('series,timestamp,value\n"a",2024-01-01,1\na,2024-01-02\n', 3, None),
        ("timestamp,value\n2024-01-01,1\n2024-01-02,2,3\n", 3, None),
        ("timestamp,timestamp,value\n2024-01-01,2024-01-01,1\n", 1, "timestamp"),
        ("\n\r\ntimestamp,timestamp,value\n2024-01-01,2024-01-01,1\n", 3, "timestamp"),
        ('timestamp,value\n"' + "x" * 200_000 + '",\n', 2, None),
    ],
)
def test_csv_is_refused_by_its_row(text: str, row: int, column: str | None) -> None:
    error = refuse(text, formats.CSV)
    assert isinstance(error, InvalidObservations)
    assert (error.errors[0]["row"], error.errors[0].get("column")) == (row, column)
    assert f"row {row}" in error.detail


def test_a_broken_row_far_down_is_named_and_so_are_the_first_twenty() -> None:
    lines = [f"a,2024-01-01T{k // 3600 % 24:02}:{k // 60 % 60:02}:{k % 60:02}Z,{k}" for k in range(80_000)]
    lines[69_999] = "a,2024-01-01T19:26:39Z,1.2.3"
    error = refuse("series,timestamp,value\n" + "\n".join(lines), formats.CSV)
    assert error.errors == [
        {"row": 70_001, "column": "value", "detail": "expected a finite number or nothing (missing), found '1.2.3'"}
    ]
    error = refuse("timestamp,value\n" + "2024-01-01,x\n" * 70_000, formats.CSV)
    assert [place["row"] for place in error.errors] == list(range(2, 22))
    assert "69999 more" in error.detail


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("\n", "expected a header"),
        ("timestamp,value\n", "no rows"),
        ("timestamp;value\n2024-01-01;1\n", "commas"),
        ("when,value\n2024-01-01,1\n", "timestamp_column"),
        ("timestamp,ds,value\n2024-01-01,1,1\n", "found 2"),
        ("timestamp,value,y\n2024-01-01,1,1\n", "found 2"),
        ("timestamp,value,weather\n2024-01-01,1,1\n", "weather"),
        ('timestamp,value\n"2024-01-01,1\n2024-01-02,2\n', "row 2"),
        ("timestamp,value\n2024-01-01,\xff\n".encode("latin-1").decode("latin-1"), "found 'ÿ'"),
    ],
)
def test_a_csv_that_is_no_such_table_is_refused(text: str, words: str) -> None:
    assert words in refuse(text, formats.CSV).detail


@pytest.mark.parametrize("body", [b"timestamp,value\n2024-01-01,\xff\n", "timestamp,value\n2024-01-01,1\n".encode("utf-16")])
def test_text_that_is_not_utf_8_is_refused(body: bytes) -> None:
    assert "UTF-8" in refuse(body, formats.CSV).detail


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"series": "a", "timestamp": "2024-01-02", "value": "x"}', "row 3"),
        ('{"series": "a", "timestamp": "2024-01-02"', "row 3: not valid JSON"),
        ('{"series": "a", "timestamp": "2024-01-02", "value": NaN}', "row 3: not valid JSON"),
        ('{"series": "a", "timestamp": "2024-01-02", "value": 1, "more": 1}', "'more'"),
        ("[1]", "row 3"),
    ],
)
def test_ndjson_is_refused_by_its_line(line: str, words: str) -> None:
    good = '{"series": "a", "timestamp": "2024-01-01", "value": 1}'
    assert words in refuse(f"{good}\n\n{line}\n", formats.NDJSON).detail


def test_binary_tables_are_refused_with_a_reason() -> None:
    hours = [datetime(2024, 1, 1, hour) for hour in range(24)]  # noqa: DTZ001
    whole = to_parquet(timestamp=hours, value=[1.0] * 24)
    for cut in (1, 8, len(whole) // 2, len(whole) - 1):
        assert "cut off" in refuse(whole[:cut], formats.PARQUET).detail
    for words, columns in {
        "expected numbers, found String": {"timestamp": hours[:1], "value": ["1"]},
        "expected numbers, found Boolean": {"timestamp": hours[:1], "value": [True]},
        "expected numbers, found List": {"timestamp": hours[:1], "value": [[1.0]]},
        "expected timestamps, dates or integers, found Float64": {"timestamp": [1.5], "value": [1.0]},
        "expected text, found Float64": {"series": [1.5], "timestamp": hours[:1], "value": [1.0]},
        "row 2, column value: expected a finite number": {"timestamp": hours[:2], "value": [1.0, float("nan")]},
        "row 2, column timestamp": {"timestamp": [hours[0], None], "value": [1.0, 1.0]},
        "row 1, column series": {"series": ["\x00"], "timestamp": hours[:1], "value": [1.0]},
        "is the unit": {"timestamp": pl.Series([2**61]).cast(pl.Datetime("ms")), "value": [1.0]},
        "no rows": {"timestamp": pl.Series([], dtype=pl.Date), "value": pl.Series([], dtype=pl.Float64)},
    }.items():
        assert words in refuse(to_parquet(**columns), formats.PARQUET).detail
    buffer = io.BytesIO()
    pl.DataFrame({"timestamp": hours, "value": [1.0] * 24}).write_ipc_stream(buffer)
    assert "cut off" in refuse(buffer.getvalue()[:200], formats.ARROW).detail
    assert "cut off" in refuse(b"x" * 100, formats.ARROW).detail


def test_a_parquet_file_on_which_its_reader_would_abort_is_refused_like_any_other() -> None:
    buffer = io.BytesIO()
    frame = pl.DataFrame({"timestamp": pl.Series([0] * 24).cast(pl.Datetime("us")), "value": [1.0] * 24})
    frame.write_parquet(buffer, compression="uncompressed")
    whole = buffer.getvalue()
    count_of_a_page = b"\x2c\x15\x30"  # field 5, an int, 24
    assert count_of_a_page in whole
    assert "its reader gave up" in refuse(whole.replace(count_of_a_page, b"\x2c\x15\x01"), formats.PARQUET).detail


def test_a_small_file_that_unpacks_to_too_many_rows_is_refused() -> None:
    body = to_parquet(timestamp=pl.Series([0] * 1001).cast(pl.Date), value=[1.0] * 1001)
    with pytest.raises(BodyTooLarge, match="at most 1000 rows, found 1001"):
        formats.parse(body, formats.PARQUET, ColumnOptions(), "d", Bounds(max_rows=1000))


def test_one_column_plays_one_role() -> None:
    assert "two roles" in refuse("timestamp,value\n2024-01-01,1\n", formats.CSV, value="timestamp", ignore_others=True).detail


@pytest.mark.parametrize(
    "media_type", ["", "text/plain", "application/xml", "text/csv; charset=latin-1", "multipart/form-data; boundary=x"]
)
def test_other_media_types_are_refused(media_type: str) -> None:
    error = refuse(GOOD, media_type)
    assert isinstance(error, UnsupportedMediaType)
    assert "text/csv" in error.detail
    assert len(parse(GOOD, "Text/CSV; charset=UTF-8").values) == 2


BAD_REQUESTS: list[tuple[str, bytes | object, str, int, str, str]] = [
    ("", GOOD + b"2024-01-02,3\n", formats.CSV, 422, "duplicate-observations", "row 4, column timestamp: 2024-01-02T00:00:00Z"),
    ("", b"timestamp,value\n2024-01-01,1\n", formats.CSV, 422, "freq-undetermined", "PUT the dataset"),
    ("", b"timestamp,value\n1704067200000,1\n1704070800000,2\n", formats.CSV, 422, "invalid-observations", "milliseconds"),
    ("", b"timestamp,value\n20240131,1\n20240201,2\n", formats.CSV, 422, "invalid-observations", "2024-01-31"),
    ("", b"timestamp,value\n1,1\n20000000,2\n", formats.CSV, 422, "span-too-long", "at most 10000000"),
    ("", b"timestamp,value\n1700-01-01T00:00:00Z,1\n2200-01-01T00:00:01Z,2\n", formats.CSV, 422, "span-too-long", "unit"),
    (
        "",
        b"timestamp,value\n2024-01-01T00:00:00.1Z,1\n2024-01-01T00:00:00.2Z,2\n",
        formats.CSV,
        422,
        "freq-undetermined",
        "whole seconds",
    ),
    ("", {"series": [{"id": "a", "start": HOURS[0], "values": [1, 2]}]}, formats.JSON, 422, "freq-undetermined", "freq"),
    ("?on_conflict=never", GOOD, formats.CSV, 422, "invalid-request", "on_conflict"),
    ("?ignore_columns=perhaps", GOOD, formats.CSV, 422, "invalid-request", "ignore_columns"),
    ("?value_column=%00", GOOD, formats.CSV, 422, "invalid-observations", "?value_column="),
    ("", GOOD[:5], "image/png", 415, "unsupported-media-type", "text/csv"),
]


def test_nothing_is_stored_and_the_next_request_is_served(client: Any, database: Database) -> None:
    for query, body, media_type, status, slug, words in BAD_REQUESTS:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        answer = client.post(f"/v1/datasets/a/observations{query}", content=content, headers={"content-type": media_type})
        problem = answer.json()
        assert (answer.status_code, problem["type"]) == (status, f"/problems/{slug}"), problem
        assert words in problem["detail"], problem
        assert problem["request_id"]
        with database.read() as session:
            for table in (Dataset, Series, Chunk):
                assert session.scalar(sa.select(sa.func.count()).select_from(table)) == 0
    good = client.post("/v1/datasets/a/observations", content=GOOD, headers={"content-type": formats.CSV})
    assert good.json()["inserted"] == 2
    late = {"observations": [row(series="new"), row(series="a", timestamp="2024-01-03T07:00:00+02:00")]}
    off_grid = client.post("/v1/datasets/a/observations", json=late).json()
    assert off_grid["type"] == "/problems/off-grid"
    assert off_grid["errors"][0]["nearest"] == "2024-01-03T00:00:00Z"
    assert [item["id"] for item in client.get("/v1/datasets/a/series").json()["items"]] == ["a"]


def test_a_step_dataset_and_a_dated_one_do_not_mix(client: Any) -> None:
    client.put("/v1/datasets/steps", json={"freq": "step"})
    client.put("/v1/datasets/days", json={"freq": "D"})
    far = client.post("/v1/datasets/steps/observations", json={"observations": [row(timestamp=0), row(timestamp=10**18)]})
    assert far.json()["errors"][0]["pointer"] == "#/observations/1/timestamp"
    for dataset, timestamp, words in [
        ("steps", "2024-01-01", "integer"),
        ("days", 5, "freq is D"),
        ("days", 1704067200, "seconds"),
    ]:
        answer = client.post(f"/v1/datasets/{dataset}/observations", json={"observations": [row(timestamp=timestamp)]})
        assert answer.status_code == 422
        assert words in answer.json()["detail"]
    other = {"series": [{"id": "a", "start": HOURS[0], "freq": "h", "values": [1]}]}
    assert client.post("/v1/datasets/days/observations", json=other).json()["errors"][0]["pointer"] == "#/series/0/freq"


def test_timestamps_that_come_again_and_again_are_read_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["2024-01-01T00:00:00Z", "2024-01-01", "2024-02-30T00:00:00Z", "2024-01-01T02:00:00+05:30", "nonsense", ""]
    numbers = ["1", "2", "-3", "x", "99999999999999999999"]
    shared = [few * 3_000 for few in (texts, texts[:1], texts[2:], numbers, [*texts, None])]
    almost = [*shared[0][:-1], texts[0]], [*shared[0][:-2], texts[1]], shared[0] + texts[:4], texts[:1] + texts[1:4] * 5_000
    for cells in (*shared, *almost):
        column = pl.Series("timestamp", cells)
        folded = timestamps.read_points(column)
        with monkeypatch.context() as patch:
            patch.setattr(timestamps, "FOLDED_FROM", 10**9)
            plain = timestamps.read_points(column)
        assert folded is not None
        assert plain is not None
        np.testing.assert_array_equal(folded.bad, plain.bad)
        np.testing.assert_array_equal(folded.points[~folded.bad], plain.points[~plain.bad])
        np.testing.assert_array_equal(folded.is_naive[~folded.bad], plain.is_naive[~plain.bad])
        assert folded.is_integer is plain.is_integer


def test_series_are_numbered_alike_in_runs_and_in_turn() -> None:
    names = [f"s{number}" for number in range(7)]
    in_turn = pl.Series(names * 2_000)
    in_runs, sorted_but_one = in_turn.sort(), pl.concat([in_turn.sort(), pl.Series(["s3", "s9"])])
    for column in (in_turn, in_runs, sorted_but_one, in_runs.reverse()):
        distinct, rows = number_distinct(column)
        assert distinct.to_list() == list(dict.fromkeys(column.to_list()))
        assert distinct.gather(rows).equals(column)


@given(st.lists(st.text("0123456789.eE+-_ \tainfNA", max_size=9) | st.floats().map(repr), min_size=1, max_size=4))
def test_a_csv_s_values_are_the_same_read_straight_away_or_as_text(cells: list[str]) -> None:
    """With a cell that is no number among them all are read as text."""
    lines = [f"a,2024-01-{day:02},{cell}" for day, cell in enumerate(cells, 1)]
    error = None
    try:
        found = parse("\n".join(["series,timestamp,value", *lines]), formats.CSV).values
    except InvalidObservations as refused:
        error = refused
    refused = refuse("\n".join(["series,timestamp,value", *lines, "a,2024-02-01,x"]), formats.CSV)
    assert isinstance(refused, InvalidObservations)
    wrong = [place["row"] for place in refused.errors]
    assert wrong == [*(place["row"] for place in (error.errors if error else [])), len(cells) + 2]
    if error is None:
        expected = [float(cell.strip(" \t") or "nan") for cell in cells]
        np.testing.assert_array_equal(found, expected)


def test_blanks_around_a_number_of_a_csv_are_no_part_of_it() -> None:
    for other in ("", "2024-01-09,x\n"):
        text = "timestamp,value\n2024-01-01, 1\n2024-01-02,2\t\n2024-01-03,  \n" + other
        if not other:
            np.testing.assert_array_equal(parse(text, formats.CSV).values, [1, 2, np.nan])
        else:
            assert [place["row"] for place in refuse(text, formats.CSV).errors] == [5]
