"""What was backed up comes back, to the last digit; what is damaged is refused, and nothing touched."""

import os
import re
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import backup
from app.database import Database
from app.doctor import deep
from app.errors import AlreadyExists, BackupDamaged, Conflict, EngramError, NotFound
from app.settings import Settings
from migrations import scratch
from tests.conftest import QUICK, Client, missing
from tests.test_cli import engram

ROWS = [{"series": f"s{number}", "timestamp": step, "value": 1.0} for number in range(4) for step in range(50)]


@pytest.fixture
def embedded(tmp_path: Path) -> Settings:
    settings = Settings(data_dir=tmp_path / "var")
    with closing(Database(settings.database_url)) as database:
        import migrations

        migrations.upgrade(database)
    return settings


def post(client: Client, rows: list[dict[str, object]]) -> None:
    assert client.post("/v1/datasets/d/observations", json={"observations": rows}).status_code == 200


def read(client: Client) -> object:
    return client.get("/v1/datasets/d/observations").json()


def test_what_was_backed_up_while_it_served_comes_back(embedded: Settings, tmp_path: Path) -> None:
    """Each request writes 4 series alike: a moment in which they differ would be half of one."""
    file = tmp_path / "a.backup"
    written, enough = threading.Event(), threading.Event()
    with Client(embedded) as client:
        client.put("/v1/datasets/d", json={"freq": "step"})

        def write() -> None:
            step = 0
            while not enough.is_set():
                post(client, [{"series": f"s{number}", "timestamp": step, "value": 1.0} for number in range(4)])
                step += 1
                if step == 20:
                    written.set()

        writer = threading.Thread(target=write)
        writer.start()
        written.wait(30)
        done = backup.back_up(embedded, file)
        enough.set()
        writer.join()
        with pytest.raises(Conflict, match="in use"):
            backup.restore(embedded, file, replace=True)
    with pytest.raises(AlreadyExists):
        backup.back_up(embedded, file)
    with pytest.raises(AlreadyExists, match="--replace"):
        backup.restore(embedded, file, replace=False)
    restored, aside = backup.restore(embedded, file, replace=True)
    assert restored == done
    assert aside is not None
    assert aside.exists()
    with Client(embedded) as client:
        series = client.get("/v1/datasets/d/observations").json()["series"]
        assert len({len(one["values"]) for one in series}) == 1
        assert len(series[0]["values"]) >= 20
        with closing(Database(embedded.database_url)) as database:
            assert deep.check_observations(embedded, database).level == deep.check_pages(embedded, database).level == "ok"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        lambda data: data.replace(b'"sha256": "', b'"sha256": "0', 1),
        lambda data: re.sub(rb'"revision": "[^"]*"', b'"revision": "9999"', data, count=1),
        lambda data: data + b"more",
        lambda data: b"SQLite format 3\0" + data,
        lambda _: b"",
    ],
)
def test_a_damaged_or_foreign_file_is_refused_and_nothing_touched(
    embedded: Settings, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    file, wrong = tmp_path / "a.backup", tmp_path / "wrong"
    backup.back_up(embedded, file)
    wrong.write_bytes(damage(file.read_bytes()))
    before = sorted(embedded.data_dir.iterdir()), (embedded.data_dir / "engram.db").read_bytes()
    with pytest.raises(BackupDamaged, match="wrong"):
        backup.restore(embedded, wrong, replace=True)
    assert (sorted(embedded.data_dir.iterdir()), (embedded.data_dir / "engram.db").read_bytes()) == before


def test_what_cannot_be_backed_up_or_restored_is_said(embedded: Settings, tmp_path: Path) -> None:
    postgres = Settings(data_dir=tmp_path, database_url="postgresql://127.0.0.1/x")
    wrong: tuple[tuple[Callable[[], object], type[EngramError]], ...] = (
        (lambda: backup.back_up(Settings(data_dir=tmp_path / "nowhere"), tmp_path / "b"), NotFound),
        (lambda: backup.back_up(postgres, tmp_path / "b"), Conflict),
        (lambda: backup.restore(embedded, tmp_path / "absent", replace=True), NotFound),
    )
    for act, error in wrong:
        with pytest.raises(error):
            act()
    assert not (tmp_path / "b").exists()


def test_the_commands(embedded: Settings, tmp_path: Path) -> None:
    file, folder = tmp_path / "a.backup", tmp_path / "elsewhere"
    assert engram("backup", str(file), f"--data-dir={embedded.data_dir}").returncode == 0
    done = engram("restore", str(file), f"--data-dir={folder}")
    assert (done.returncode, "restored: revision" in done.stdout) == (0, True)
    assert (folder / "engram.db").exists()
    file.write_bytes(b"something else")
    refused = engram("restore", str(file), f"--data-dir={folder}", "--replace")
    assert (refused.returncode, "no backup of Engram's" in refused.stderr) == (1, True)


def test_postgresql_by_its_own_tools(
    client: Client, database: Database, executor: object, postgres_server: str, tmp_path: Path
) -> None:
    """As docs/operations.md says: a dump of a service that stands is the same service elsewhere."""
    if database.dialect != "postgresql":
        pytest.skip("`engram backup` does this")
    if shutil.which("pg_dump") is None:
        missing("no pg_dump")
    client.post_air()
    client.train(executor, "air", dataset="air", horizon=3, **QUICK)  # type: ignore[arg-type]
    forecast = client.post("/v1/models/air/forecasts", json={}).json()
    file = tmp_path / "engram.dump"
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    subprocess.run(["pg_dump", "--format=custom", f"--file={file}", url], check=True)
    with scratch.make_postgres(postgres_server, "template0") as elsewhere:
        subprocess.run(["pg_restore", "--no-owner", "--exit-on-error", f"--dbname={elsewhere}", str(file)], check=True)
        with Client(Settings(data_dir=tmp_path, database_url=elsewhere)) as other:
            assert other.post("/v1/models/air/forecasts", json={}).json() == forecast


def test_a_full_disk_is_told_and_harms_nothing(embedded: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(embedded) as client:
        client.put("/v1/datasets/d", json={"freq": "step"})
        post(client, ROWS[:10])
        before = read(client)
        engine = client.app.state.database.engine
        engine.dispose()

        @sa.event.listens_for(engine, "connect")
        def limit(connection: sqlite3.Connection, _: object) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")

        rows = [{"series": f"n{number}", "timestamp": 0, "value": number / 7} for number in range(3000)]
        answer = client.post("/v1/datasets/d/observations", json={"observations": rows})
        assert (answer.status_code, answer.json()["type"]) == (507, "/problems/disk-full")
        assert read(client) == before
        sa.event.remove(engine, "connect", limit)
        engine.dispose()
        post(client, rows)
        assert len(client.get("/v1/datasets/d/series?limit=1000&prefix=n").json()["items"]) == 1000


def test_postgresql_says_in_its_own_way_that_its_disk_is_full(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    from app.datasets import service

    def fail(*_: object, **__: object) -> None:
        raise sa.exc.OperationalError("INSERT", {}, psycopg.errors.DiskFull("could not extend file: No space left on device"))

    monkeypatch.setattr(service, "open_dataset", fail)
    assert client.post("/v1/datasets/d/observations", json={"observations": ROWS}).status_code == 507


def test_no_backup_leaves_anything_beside_it(embedded: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    backup.back_up(embedded, folder / "a")
    assert os.listdir(folder) == ["a"]  # noqa: PTH208 - hidden files too
