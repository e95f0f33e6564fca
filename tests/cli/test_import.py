"""`engram import`: many requests end as one would have, bad rows are named as an editor counts them, interruptions cost nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.cli.conftest import Run
from tests.processes import Service

HOURS = 200
BATCH = ("--batch-bytes", "500")


def write_csv(path: Path, rows: list[tuple[str, str, object]]) -> Path:
    path.write_text("series,timestamp,value\n" + "".join(f"{series},{at},{value}\n" for series, at, value in rows))
    return path


def make_hours(count: int = HOURS, series: int = 2) -> list[tuple[str, str, object]]:
    """Sorted by time, as logs are."""
    return [
        (f"s{number}", f"2024-01-{1 + hour // 24:02d}T{hour % 24:02d}:00:00Z", hour + number / 10)
        for hour in range(count)
        for number in range(series)
    ]


def read_back(service: Service, dataset: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.get(f"/v1/datasets/{dataset}/observations").json()["series"]
    return found


def test_many_requests_end_as_one_would_have(engram: Run, service: Service, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "data.csv", make_hours())
    many = engram("import", file, "--dataset=many", *BATCH, "--json").json()
    one = engram("import", file, "--dataset=one", "--json").json()
    assert many["requests"] > 10
    assert one["requests"] == 1
    assert {**many, "dataset": "", "requests": 0} == {**one, "dataset": "", "requests": 0}
    assert many["inserted"] == 2 * HOURS
    assert read_back(service, "many") == read_back(service, "one")
    again = engram("import", file, "--dataset=many", *BATCH)
    assert again.code == 0
    assert again.out.startswith("many: 400 observations received: 0 inserted, 0 updated, 400 unchanged")
    assert not list((tmp_path / "state").rglob("*.json")), "a finished import leaves no note"


def test_stdin_and_columns_of_other_names(engram: Run, service: Service) -> None:
    lines = "".join(json.dumps({"shop": "a", "ds": f"2024-01-{day:02d}", "sold": day, "x": 1}) + "\n" for day in range(1, 29))
    columns = ("--series-column=shop", "--value-column=sold")
    assert "columns that are not read: 'x'" in engram("import", "-", "--dataset=shops", *columns, stdin=lines.encode()).err
    done = engram("import", "-", "--dataset=shops", *columns, "--ignore-columns", "--json", stdin=lines.encode())
    assert (done.json()["freq"], done.json()["inserted"]) == ("D", 28)


def test_a_bad_row_is_named_as_it_stands_in_the_file(engram: Run, service: Service, tmp_path: Path) -> None:
    rows = make_hours()
    rows[299] = ("s1", rows[299][1], "many")
    rows[301] = ("s1", rows[301][1], "few")
    file = write_csv(tmp_path / "data.csv", rows)
    done = engram("import", file, "--dataset=bad", "--freq=h", *BATCH)
    assert done.code == 1
    assert "row 301, column value: expected a finite number or nothing (missing), found 'many'" in done.err
    assert "row 303, column value: expected a finite number or nothing (missing), found 'few'" in done.err
    assert "the same command goes on behind it" in done.err
    found = engram("import", file, "--dataset=bad-2", *BATCH)
    assert "row 301, column value" in found.err, "named also while the freq is looked for, before anything is sent"
    assert service.get("/v1/datasets/bad-2").status_code == 404


def test_rows_in_the_middle_of_a_sentence_are_the_files_too(engram: Run, tmp_path: Path) -> None:
    rows = make_hours()
    rows[250] = ("s1", rows[249][1], 1e6)
    done = engram("import", write_csv(tmp_path / "data.csv", rows), "--dataset=twice", "--freq=h", *BATCH)
    assert "row 252, column timestamp: 2024-01-06T04:00:00Z was sent before, at row 251: 124.1 and 1000000.0" in done.err


def test_the_freq_is_that_of_the_whole_file(engram: Run, service: Service, tmp_path: Path) -> None:
    """The first request alone would have held one timestamp, or Mondays only."""
    wide = write_csv(tmp_path / "wide.csv", make_hours(3, 100))
    assert engram("import", wide, "--dataset=wide", *BATCH, "--json").json()["freq"] == "h"
    mondays = [("a", f"2024-{month:02d}-01", 1) for month in range(1, 13)] * 20
    late = write_csv(tmp_path / "late.csv", [*mondays, *(("a", f"2025-01-{day:02d}", 2) for day in range(1, 29))])
    assert engram("import", late, "--dataset=late", *BATCH, "--json").json()["freq"] == "D"
    piped = engram("import", "-", "--dataset=piped", *BATCH, stdin=wide.read_bytes())
    assert piped.code == 1
    assert "here: --freq" in piped.err
    assert engram("import", "-", "--dataset=piped", "--freq=h", *BATCH, stdin=wide.read_bytes()).code == 0


def test_the_steps_of_an_aggregate_stay_whole(engram: Run, service: Service, tmp_path: Path) -> None:
    rows = [
        (f"s{number}", f"2024-01-01T{minute // 60:02d}:{minute % 60:02d}:00", minute % 7 + number)
        for minute in range(600)
        for number in range(3)
    ]
    by_time = write_csv(tmp_path / "time.csv", rows)
    by_series = write_csv(tmp_path / "series.csv", sorted(rows))
    how = ("--freq=h", "--aggregate=mean", "--time-zone=Europe/Berlin")
    whole = engram("import", by_time, "--dataset=folded", *how, "--json").json()
    for name, file in (("folded-t", by_time), ("folded-s", by_series)):
        parts = engram("import", file, f"--dataset={name}", *how, "--batch-bytes=12000", "--json").json()
        assert parts["requests"] >= 4
        assert (parts["inserted"], parts["updated"]) == (whole["inserted"], 0)
        assert read_back(service, name) == read_back(service, "folded")
    torn = write_csv(tmp_path / "torn.csv", [*rows, ("s1", "2024-01-01T02:30:00", 99)])
    refused = engram("import", torn, "--dataset=torn", *how, "--batch-bytes=12000")
    assert refused.code == 1
    assert f"row {len(rows) + 2}: series 's1' goes back to a step that was sent already" in refused.err


def test_an_interrupted_import_goes_on_where_it_was(engram: Run, service: Service, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "data.csv", make_hours(700, 4))
    command = [sys.executable, "-m", "app.cli", "import", str(file), "--dataset=resumed", "--freq=h", "--batch-bytes=300"]
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "state"
    deadline = time.monotonic() + 60
    while not list(state.rglob("*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "interrupted. The file is stored up to row" in err
    assert "Traceback" not in err
    resumed = engram("import", file, "--dataset=resumed", "--json")
    assert resumed.json()["resumed_after_row"] > 1
    assert "--from-start sends all of it again" in resumed.err
    assert resumed.json()["received"] < 2800
    assert service.get("/v1/datasets/resumed").json()["observations"] == 2800


def test_a_note_is_not_believed_when_the_dataset_is_another(engram: Run, service: Service, tmp_path: Path) -> None:
    rows = make_hours()
    rows[350] = ("s0", rows[350][1], "wrong")
    file = write_csv(tmp_path / "data.csv", rows)
    command = ("import", file, "--dataset=fresh", "--freq=h", *BATCH)
    assert engram(*command).code == 1
    assert "goes on behind row" in engram(*command).err
    assert "goes on behind row" not in engram(*command, "--from-start").err
    gone = {"series": "s0", "end": "2024-01-02T00:00:00Z"}
    assert service.http.delete("/v1/datasets/fresh/observations", params=gone).json()["deleted"] > 0
    assert "goes on behind row" not in engram(*command).err, "what was deleted is sent again"
    assert service.http.delete("/v1/datasets/fresh").status_code == 204
    assert "goes on behind row" not in engram(*command).err


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_tables_of_other_programs(engram: Run, tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame(make_hours(48), schema=["unique_id", "ds", "y"], orient="row")
    file = tmp_path / f"data.{suffix}"
    frame.write_parquet(file) if suffix == "parquet" else frame.write_ipc_stream(file)
    done = engram("import", file, f"--dataset={suffix}", "--batch-bytes=1000", "--json").json()
    assert (done["freq"], done["inserted"]) == ("h", 96)
    assert done["requests"] > 2
