"""`engram alive PART`, as a container's health check calls it."""

import platform
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
import typer

import migrations
from app.cli.alive import Part, alive
from app.database import Database, database_now
from app.settings import Settings
from app.tables import Worker
from app.training import presence
from tests.processes import Service


def find_exit_code(part: Part) -> int:
    try:
        alive(part)
    except typer.Exit as end:
        return int(end.exit_code)
    return 0


def test_a_worker_is_alive_while_its_row_is_fresh(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENGRAM_DATABASE_URL", database_url)
    assert find_exit_code(Part.WORKER) == 1
    ours = f"{platform.node()}-1"
    with database.write() as session:
        now = database_now(session)
        session.add(Worker(name=f"not-{ours}", devices=["cpu"], started_at=now, seen_at=now))
        session.commit()
        assert find_exit_code(Part.WORKER) == 1
        session.add(Worker(name=ours, devices=["cpu"], started_at=now, seen_at=now))
        session.commit()
    capsys.readouterr()
    assert find_exit_code(Part.WORKER) == 0
    assert capsys.readouterr().err == ""
    stale = now - timedelta(seconds=Settings().sweep_seconds * 6 + 1)
    with database.write() as session:
        session.execute(sa.update(Worker).where(Worker.name == ours).values(seen_at=stale))
        session.commit()
    assert find_exit_code(Part.WORKER) == 1
    assert f"no worker of {platform.node()}" in capsys.readouterr().err


def test_a_scheduler_is_alive_while_its_row_is_fresh(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGRAM_DATABASE_URL", database_url)
    with database.write() as session:
        presence.register_worker(session, f"{platform.node()}-1", ("cpu",), "boot/1/1")
        session.commit()
        assert find_exit_code(Part.SCHEDULER) == 1
        presence.register_scheduler(session, f"{platform.node()}-2")
        session.commit()
    assert find_exit_code(Part.SCHEDULER) == 0


@pytest.mark.parametrize("place", ["postgresql://127.0.0.1:1/engram", "sqlite:///{folder}/not-migrated.db"])
def test_a_database_that_is_away_is_no_fault_of_a_worker(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENGRAM_DATABASE_URL", place.format(folder=tmp_path))
    assert find_exit_code(Part.WORKER) == 0
    assert "nothing is known" in capsys.readouterr().err


def test_the_api_is_alive_while_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    monkeypatch.setenv("ENGRAM_PORT", port)
    monkeypatch.setenv("ENGRAM_HOST", "0.0.0.0")
    assert find_exit_code(Part.API) == 1
    assert f"127.0.0.1:{port}" in capsys.readouterr().err
    database = Database(f"sqlite:///{tmp_path / 'engram.db'}")
    migrations.upgrade(database)
    database.close()
    service = Service({"ENGRAM_DATA_DIR": str(tmp_path), "ENGRAM_HOST": "127.0.0.1"}, tmp_path)
    try:
        service.start("api")
        service.wait_for(lambda: find_exit_code(Part.API) == 0)
    finally:
        service.close()
    assert find_exit_code(Part.API) == 1
