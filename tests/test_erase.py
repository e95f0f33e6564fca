"""Erased is erased: no row, no kept backtest, no byte in the files; and masked exports tell no id."""

import json
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from app.cli import cli
from app.cli.export import add_noise, mask, mask_id
from app.database import Database
from app.settings import Settings
from app.tables import BacktestWindow, Chunk, Series
from app.training.execution import Executor
from tests.conftest import QUICK, Client

CSV = {"Content-Type": "text/csv"}
SECRET, OTHER = "secret-customer-4711", "other-customer"


def post_two(client: Client) -> None:
    for number, series in enumerate((SECRET, OTHER)):
        rows = "series,timestamp,value\n" + "".join(
            f"{series},2024-{month:02}-{day:02},{day * 7 % 11 + number}\n" for month in range(1, 7) for day in range(1, 29)
        )
        assert client.post("/v1/datasets/d/observations", content=rows, headers=CSV).status_code == 200


def learn(client: Client, executor: Executor) -> None:
    client.train(executor, "all", dataset="d", horizon=3, **QUICK)
    client.train(executor, "one", dataset="d", horizon=3, series=[OTHER], **QUICK)
    client.train(executor, "named", dataset="d", horizon=3, series=[SECRET, OTHER], **QUICK)


def count(database: Database, table: Any, series_id: int) -> int:
    with database.read() as session:
        return int(session.scalar(sa.select(sa.func.count()).where(table.series_id == series_id)) or 0)


def run(settings: Settings, *arguments: str) -> Any:
    environment = {"ENGRAM_DATABASE_URL": settings.database_url, "ENGRAM_DATA_DIR": str(settings.data_dir)}
    done = CliRunner().invoke(cli, [*arguments, "--json"], env=environment)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_erase_finds_every_place_and_leaves_nothing_there(
    client: Client, executor: Executor, database: Database, settings: Settings
) -> None:
    post_two(client)
    learn(client, executor)
    with database.read() as session:
        id_ = session.scalars(sa.select(Series.id).where(Series.name == SECRET)).one()
        blobs = list(session.scalars(sa.select(Chunk.data).where(Chunk.series_id == id_)))
        blobs += list(session.scalars(sa.select(BacktestWindow.data).where(BacktestWindow.series_id == id_)))
    assert count(database, Chunk, id_) == 1
    assert count(database, BacktestWindow, id_) == 2
    files = [path for path in settings.data_dir.iterdir() if path.name.startswith("engram.db")]
    looked = run(settings, "erase", "d", "--series", SECRET, "--dry-run")
    assert looked["erased"] is False
    assert count(database, Chunk, id_) == 1
    report = run(settings, "erase", "d", "--series", SECRET)
    assert report["series"] == looked["series"] == [{"id": SECRET, "observations": 168, "chunks": 1, "backtest_windows": 2}]
    assert [(one["model"], one["version"], one["aliases"]) for one in report["versions"]] == [
        ("all", 1, ["champion"]),
        ("named", 1, ["champion"]),
    ]
    assert [(one["model"], one["status"]) for one in report["trainings"]] == [("named", "succeeded")]
    assert (count(database, Chunk, id_), count(database, BacktestWindow, id_)) == (0, 0)
    with database.read() as session:
        assert list(session.scalars(sa.select(Series.name))) == [OTHER]
    if database.dialect == "sqlite":
        assert len(files) >= 1
        assert len(blobs) == 3
        for path in files:
            content = path.read_bytes() if path.exists() else b""
            assert not [blob for blob in blobs if blob[:64] in content], path
    assert client.get("/v1/models/all/versions/1/backtest").json()["items"][0]["series"] == OTHER
    assert [one["series"] for one in client.get("/v1/models/all/forecasts").json()["forecasts"]] == [OTHER]
    assert client.get(f"/v1/models/all/forecasts?series={SECRET}").status_code == 404
    entry = client.get("/v1/audit").json()["items"][0]
    assert (entry["action"], entry["target"]) == ("erase series", f"d/{SECRET}")


def test_delete_of_a_whole_series_removes_what_can_be_rebuilt_from_and_a_range_does_not(
    client: Client, executor: Executor, database: Database
) -> None:
    post_two(client)
    client.train(executor, "all", dataset="d", horizon=3, **QUICK)
    with database.read() as session:
        id_ = session.scalars(sa.select(Series.id).where(Series.name == SECRET)).one()
    path = f"/v1/datasets/d/observations?series={SECRET}"
    assert client.delete(f"{path}&start=2024-06-01").json() == {"deleted": 28}
    assert count(database, BacktestWindow, id_) == 1
    assert client.delete(path).json() == {"deleted": 140}
    assert (count(database, BacktestWindow, id_), count(database, Chunk, id_)) == (0, 0)
    assert client.delete(path).status_code == 404
    post_two(client)
    assert client.get(f"/v1/datasets/d/series?prefix={SECRET}").json()["items"][0]["count"] == 168


def test_a_training_under_way_survives_the_erasure_of_what_it_learns_from(
    client: Client, executor: Executor, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    post_two(client)
    training = client.post("/v1/models/m/trainings", json={"dataset": "d", "horizon": 3, **QUICK}).json()["id"]
    real = executor._finish

    def erase_first(*arguments: Any) -> str:
        assert client.delete(f"/v1/datasets/d/observations?series={SECRET}").status_code == 200
        return real(*arguments)

    monkeypatch.setattr(executor, "_finish", erase_first)
    assert executor.execute() == training
    assert client.get(f"/v1/trainings/{training}").json()["status"] == "succeeded"
    assert {one["series"] for one in client.get("/v1/models/m/versions/1/backtest").json()["items"]} == {OTHER}


def test_who_writes_to_a_series_that_is_being_erased_writes_before_or_after(client: Client, database: Database) -> None:
    post_two(client)
    statuses: list[int] = []

    def write() -> None:
        for _ in range(8):
            rows = f"series,timestamp,value\n{SECRET},2024-01-01,1\n"
            statuses.append(client.post("/v1/datasets/d/observations", content=rows, headers=CSV).status_code)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    deletion = f"/v1/datasets/d/observations?series={SECRET}"
    statuses.extend(client.delete(deletion).status_code for _ in range(8))
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 404}
    with database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).where(~sa.exists().where(Series.id == Chunk.series_id))) in (0, 1)


def test_an_export_masks_ids_the_same_way_and_adds_noise(client: Client, settings: Settings, tmp_path: Path) -> None:
    post_two(client)
    key, plain, masked, noisy = (tmp_path / name for name in ("key", "plain.csv", "masked.csv", "noisy.parquet"))
    told = run(settings, "export", "d", "--local", "--output", str(plain))
    assert (told["series"], told["observations"], told["masked"]) == (2, 336, False)
    run(settings, "export", "d", "--local", "--output", str(masked), "--mask-key", str(key))
    run(settings, "export", "d", "--local", "--output", str(noisy), "--mask-key", str(key), "--noise", "0.1")
    assert key.stat().st_mode & 0o777 == 0o600
    assert SECRET in plain.read_text()
    assert SECRET not in masked.read_text()
    exact, frame, other = pl.read_csv(plain), pl.read_csv(masked), pl.read_parquet(noisy)
    name = mask_id(SECRET, "d", key.read_text().encode())
    mine = frame.filter(pl.col("series") == name)
    assert mine["value"].to_list() == exact.filter(pl.col("series") == SECRET)["value"].to_list()
    assert set(frame["series"]) == set(other["series"])
    shift = other.filter(pl.col("series") == name)["value"] - mine["value"]
    assert 0.05 < (shift.std() or 0) / (mine["value"].std() or 1) < 0.2  # type: ignore[operator]
    again = client.post("/v1/datasets/copy/observations", content=masked.read_bytes(), headers=CSV)
    assert again.json()["inserted"] == 336


def test_masks_differ_by_key_and_dataset_and_noise_leaves_missing_values_missing() -> None:
    frame = pl.DataFrame({"series": ["a", "a", "b", "b"], "timestamp": [1, 2, 1, 2], "value": [1.0, None, 5.0, 5.0]})
    assert len({mask_id("a", "d", b"1"), mask_id("a", "d", b"2"), mask_id("a", "e", b"1"), mask_id("b", "d", b"1")}) == 4
    assert mask(frame, "d", b"1")["series"].n_unique() == 2
    noisy = add_noise(frame, 1.0)["value"].to_list()
    assert (noisy[1], noisy[2], noisy[3]) == (None, 5.0, 5.0)
