"""Files cut into requests: nothing lost, nothing twice, every row found again by its number."""

import csv
import gzip
import io
import tracemalloc
from pathlib import Path

import polars as pl
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from app.cli import arrow_stream
from app.cli.batches import Batch, Position, open_source
from app.cli.failure import Failure
from app.contract import ARROW
from app.datasets import formats
from app.datasets.columns import ColumnOptions

FRAME = pl.DataFrame(
    {"series": [f"s{i % 7}" for i in range(700)], "timestamp": range(700), "value": [i / 4 for i in range(700)]}
)
WRITERS = {"parquet": FRAME.write_parquet, "arrow-file": FRAME.write_ipc, "arrow-stream": FRAME.write_ipc_stream}


def read(path: Path, batch_bytes: int, start: Position | None = None) -> list[Batch]:
    with open_source(path) as source:
        return list(source.read(batch_bytes, start))


def read_values(batches: list[Batch]) -> list[tuple[int, float]]:
    """(row of the file, value) of every observation, as the service's own parser finds them."""
    found = []
    for batch in batches:
        if batch.media_type == ARROW:  # as formats.parse would read it, which takes a process for each
            values = pl.read_ipc_stream(batch.body)["value"].to_list()
            rows = list(range(1, len(values) + 1))
        else:
            observations = formats.parse(batch.body, batch.media_type, ColumnOptions(), "air")
            values = observations.values.tolist()
            rows = [observations.place(index, "value")["row"] for index in range(len(values))]
        found += [(batch.locate(row), value) for row, value in zip(rows, values, strict=True)]
    return found


@given(
    names=st.lists(st.sampled_from(["a", 'say "hi"', "two, three", "line\nbreak", "é"]), min_size=1, max_size=40),
    batch_bytes=st.integers(30, 400),
    end=st.sampled_from(["\n", "\r\n"]),
    blank=st.integers(0, 2),
)
def test_a_csv_is_cut_between_rows_only(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], batch_bytes: int, end: str, blank: int
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end)
    writer.writerow(["name", "timestamp", "value"])
    writer.writerows([name, index, index + 0.5] for index, name in enumerate(names))
    path = tmp_path_factory.mktemp("csv") / "file"
    path.write_bytes((end * blank + text.getvalue().rstrip("\r\n")).encode())
    batches = read(path, batch_bytes)
    header = batches[0].body.splitlines(keepends=True)[0]
    assert all(batch.body.startswith(header) for batch in batches)
    rows = [row for batch in batches for row in list(csv.reader(io.StringIO(batch.body.decode(), newline="")))[1:]]
    assert rows == [[name, str(index), str(index + 0.5)] for index, name in enumerate(names)]
    firsts = [int(next(csv.reader(io.StringIO(batch.body[len(header) :].decode(), newline="")))[1]) for batch in batches]
    assert [batch.locate(2) for batch in batches] == [first + blank + 2 for first in firsts]
    assert batches[-1].end.rows == blank + 1 + len(names)


@pytest.mark.parametrize("kind", [*WRITERS, "csv", "ndjson"])
@pytest.mark.parametrize("packing", ["plain", "gzip", "zstd"])
def test_every_format_comes_whole_and_with_its_rows(tmp_path: Path, kind: str, packing: str) -> None:
    path = tmp_path / "data"
    if kind in WRITERS:
        WRITERS[kind](path)
    else:
        path.write_bytes((FRAME.write_csv() if kind == "csv" else FRAME.write_ndjson()).encode())
    if packing != "plain":
        path.write_bytes(gzip.compress(path.read_bytes()) if packing == "gzip" else zstandard.compress(path.read_bytes()))
    if packing != "plain" and kind in ("parquet", "arrow-file"):
        with pytest.raises(Failure, match="not compressed as a whole"):
            read(path, 2000)
        return
    first = 2 if kind == "csv" else 1
    expected = [(index + first, index / 4) for index in range(700)]
    batches = read(path, 2000)
    assert len(batches) > 3
    assert read_values(batches) == expected
    resumed = read(path, 2000, batches[1].end)
    assert read_values(resumed) == expected[len(read_values(batches[:2])) :]


def test_a_stream_of_several_record_batches_is_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "data.arrows"
    whole = io.BytesIO()
    parts = [FRAME[:300], FRAME[300:301], FRAME[301:]]
    messages = []
    for part in parts:
        body = io.BytesIO()
        part.write_ipc_stream(body)
        body.seek(0)
        messages.append([message for _, message in iter(lambda body=body: arrow_stream.read_message(body), None)])  # type: ignore[misc]
    whole.write(messages[0][0] + b"".join(message for one in messages for message in one[1:]) + arrow_stream.END)
    path.write_bytes(whole.getvalue())
    assert pl.read_ipc_stream(path).equals(FRAME)
    with path.open("rb") as stream:
        assert [frame.height for frame in arrow_stream.read_frames(stream)] == [300, 1, 399]
    assert read_values(read(path, 2**20)) == [(index + 1, index / 4) for index in range(700)]


@pytest.mark.parametrize("kind", ["arrow-stream", "parquet"])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data"
    WRITERS[kind](path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(Failure, match="could not be read"):
        read(path, 2000)


def test_a_packed_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.gz"
    path.write_bytes(gzip.compress(FRAME.write_csv().encode())[:-20])
    with pytest.raises(Failure, match="could not be read"):
        read(path, 2000)


def test_a_quote_that_stays_open_is_named_instead_of_filling_memory(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('series,timestamp,value\na,1,1\n"b,2,2\n' + "c,3,3\n" * 10_000)
    with pytest.raises(Failure, match="row 3 does not end within"):
        read(path, 1000)


def test_an_empty_file_and_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(Failure, match="is empty"):
        read(tmp_path / "empty", 1000)
    with pytest.raises(Failure, match="could not be opened: No such file"):
        read(tmp_path / "absent", 1000)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for rows in (20_000, 200_000):
        path = tmp_path / f"{rows}.csv"
        path.write_text("timestamp,value\n" + "".join(f"{row},1.5\n" for row in range(rows)))
        tracemalloc.start()
        with open_source(path) as source:
            assert sum(1 for _ in source.read(50_000)) > 3
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
