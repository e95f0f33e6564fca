"""Each check finds its mistake, made for real, and says what to do; a sound installation is found sound."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

import migrations
from app import doctor
from app.database import Database, database_now, utc_now
from app.doctor import machine, rows
from app.doctor.finding import Finding
from app.settings import Settings
from app.tables import ApiKey, Training
from app.training import claims, presence
from tests.conftest import Client
from tests.processes import run_service
from tests.test_cli import engram

SYSTEM_PYTHON = Path(sys.base_prefix) / "bin" / "python3"


def must_fail(finding: Finding, *cure: str) -> None:
    assert finding.level == "failure", finding
    assert finding.cure is not None
    for words in cure:
        assert words in finding.cure, finding


def must_warn(finding: Finding, *cure: str) -> None:
    assert finding.level == "warning", finding
    assert finding.cure is not None
    for words in cure:
        assert words in finding.cure, finding


def register(database: Database, name: str, devices: tuple[str, ...] = ("cpu",)) -> None:
    with database.write() as session:
        presence.register_worker(session, name, devices, f"boot/{name}")
        session.commit()


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def only_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the checks of the machine, which have tests of their own and load torch."""
    monkeypatch.setattr(doctor, "OF_THE_MACHINE", ())


def test_a_sound_installation_is_found_sound(settings: Settings, database: Database, closed_port: int) -> None:
    settings = settings.model_copy(update={"port": closed_port})
    register(database, "host-1")
    findings = list(doctor.examine(settings))
    bad = [finding for finding in findings if finding.level == "failure"]
    assert not bad
    assert len(findings) == len(doctor.OF_THE_MACHINE) + len(doctor.OF_THE_DATABASE) + len(doctor.OF_THE_ROWS)
    assert len({finding.check for finding in findings}) == len(findings)
    assert all((finding.cure is None) == (finding.level == "ok") for finding in findings)


def test_a_data_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = Settings(data_dir=tmp_path / "file")
    must_fail(machine.check_data_dir(settings), "ENGRAM_DATA_DIR")
    findings = list(doctor.examine(settings))
    assert {one.check for one in findings if one.level == "failure"} == {"data-dir", "broker", "database"}


def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.check_disk(Settings(data_dir=tmp_path / "not" / "yet")).level == "ok"
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    monkeypatch.setattr(machine, "LOW_BYTES", free * 2)
    must_warn(machine.check_disk(Settings(data_dir=tmp_path)), "ENGRAM_DATA_DIR")
    monkeypatch.setattr(machine, "LOW_BYTES", free * 20)
    must_fail(machine.check_disk(Settings(data_dir=tmp_path)), "ENGRAM_DATA_DIR")


def test_sqlite_on_a_network_file_system(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"90 21 0:52 / {tmp_path}/with\\040space rw,relatime shared:60 - nfs4 server:/export rw,vers=4.2\n"
    )
    there = Settings(data_dir=tmp_path / "with space" / "var")
    must_fail(machine.check_file_system(there, tmp_path / "mounts"), "local disk", "PostgreSQL")
    assert machine.check_file_system(Settings(data_dir=tmp_path), tmp_path / "mounts").level == "ok"
    urls = {"database_url": "postgresql://db/engram", "broker_url": "redis://broker/0"}
    assert machine.check_file_system(Settings(data_dir=there.data_dir, **urls), tmp_path / "mounts").level == "ok"


def test_a_broker_that_is_away(tmp_path: Path, closed_port: int) -> None:
    must_fail(machine.check_broker(Settings(broker_url=f"redis://127.0.0.1:{closed_port}/0")), "ENGRAM_BROKER_URL")
    assert machine.check_broker(Settings(data_dir=tmp_path)).level == "ok"


def test_torch_that_is_missing(tmp_path: Path) -> None:
    if SYSTEM_PYTHON.resolve() == Path(sys.executable).resolve() and sys.prefix == sys.base_prefix:
        pytest.skip("the tests do not run in an environment of their own: there is no interpreter without torch")
    must_fail(machine.check_torch(Settings(data_dir=tmp_path), str(SYSTEM_PYTHON)), "pip install")


def test_cuda_that_is_asked_for_and_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if machine.GPU_NODE.exists():
        pytest.skip("this machine has a GPU")
    assert machine.check_torch(Settings(data_dir=tmp_path)).level == "ok"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    must_fail(machine.check_torch(Settings(data_dir=tmp_path)), "CUDA build", "--queues cpu")


def test_forecasts_without_compiled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "load_library", lambda: object())
    assert machine.check_compiled(Settings(data_dir=tmp_path)).level == "ok"
    monkeypatch.setattr(machine, "load_library", lambda: None)
    found = machine.check_compiled(Settings(data_dir=tmp_path))
    assert found.level == "warning"
    assert "C compiler" in (found.cure or "")


def test_a_port_in_use(listener: socket.socket, closed_port: int) -> None:
    must_fail(machine.check_port(Settings(port=listener.getsockname()[1])), "--port")
    assert machine.check_port(Settings(port=closed_port)).level == "ok"


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    must_warn(machine.check_cores(Settings(worker_concurrency=cores + 1)), "ENGRAM_WORKER_CONCURRENCY")
    assert machine.check_cores(Settings(worker_concurrency=cores)).level == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    must_warn(machine.check_cores(Settings()), "OMP_NUM_THREADS")


@pytest.mark.usefixtures("only_rows")
def test_a_database_that_is_away(closed_port: int, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=f"postgresql://me:secret@127.0.0.1:{closed_port}/engram")
    *_, last = doctor.examine(settings)
    must_fail(last, "ENGRAM_DATABASE_URL")
    assert last.check == "database"
    assert "secret" not in last.found


@pytest.mark.usefixtures("only_rows")
@pytest.mark.parametrize("url", ["engram", "nosuch://host/engram"])
def test_a_database_url_that_is_wrong(url: str, tmp_path: Path) -> None:
    *_, last = doctor.examine(Settings(data_dir=tmp_path, database_url=url))
    must_fail(last, "ENGRAM_DATABASE_URL")


def test_a_schema_that_is_missing_behind_or_ahead(settings: Settings, database: Database, tmp_path: Path) -> None:
    empty = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    must_fail(rows.check_schema(settings, empty), "engram migrate")
    empty.close()
    for revision, cure in (("0001", "engram migrate"), ("9999", "install the version")):
        with database.engine.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        must_fail(rows.check_schema(settings, database), cure)
    with database.engine.begin() as connection:
        revision = f"9999_since_{migrations.head()[:4]}"
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    must_warn(rows.check_schema(settings, database), "finish the upgrade")


def test_a_database_without_its_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite without locks and shared memory, as on a file system that has none."""
    monkeypatch.chdir(tmp_path)
    database = Database(f"sqlite:///file:{tmp_path}/plain.db?vfs=unix-none&uri=true")
    must_fail(rows.check_sqlite(Settings(data_dir=tmp_path), database), "local disk")
    database.close()


def test_a_postgresql_that_lets_in_too_few_or_forgets(postgres_url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=postgres_url)
    name = sa.make_url(postgres_url).database
    for statement, finds, cure in (
        (f'ALTER DATABASE "{name}" CONNECTION LIMIT 10', must_warn, "CONNECTION LIMIT"),
        (f'ALTER DATABASE "{name}" SET synchronous_commit = off', must_fail, "a crash would lose"),
    ):
        database = Database(postgres_url)
        with database.engine.begin() as connection:
            connection.execute(sa.text(statement))
        database.close()
        database = Database(postgres_url)
        finds(rows.check_postgresql(settings, database), cure)
        database.close()


def test_a_queue_without_a_worker_for_its_device(client: Client, settings: Settings, database: Database) -> None:
    client.post_air()
    client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 3})
    must_fail(rows.check_workers(settings, database), "engram worker --queues cpu")
    register(database, "host-1")
    assert rows.check_workers(settings, database).level == "ok"
    client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 3, "device": "cuda"})
    must_fail(rows.check_workers(settings, database), "engram worker --queues cuda")


def test_a_worker_of_another_version(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    register(database, "host-1")
    assert rows.check_versions(settings, database).level == "ok"
    monkeypatch.setattr(presence, "__version__", "0.0.9")
    register(database, "host-2")
    finding = rows.check_versions(settings, database)
    must_warn(finding, "restart")
    assert "host-2 runs 0.0.9" in finding.found


def test_clocks_that_are_apart(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    register(database, "host-1")
    assert rows.check_clocks(settings, database).level == "ok"
    monkeypatch.setattr(presence, "utc_now", lambda: utc_now() + timedelta(minutes=2))
    register(database, "host-2")
    finding = rows.check_clocks(settings, database)
    must_warn(finding, "NTP")
    assert "host-2 is 120 s ahead" in finding.found


def test_leases_that_nobody_sweeps(client: Client, settings: Settings, database: Database) -> None:
    client.post_air()
    client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 3})
    with database.write() as session:
        assert claims.claim(session, settings, "boot/1", ("cpu",)) is not None
        session.commit()
    assert rows.check_leases(settings, database).level == "ok"
    with database.write() as session:
        session.execute(sa.update(Training).values(lease_expires_at=database_now(session) - timedelta(hours=1)))
        session.commit()
    must_fail(rows.check_leases(settings, database), "start a worker")


def test_an_embedded_queue_and_several_hosts(settings: Settings, database: Database) -> None:
    register(database, "here-1")
    finding = rows.check_hosts(settings, database)
    assert finding.level == ("ok" if database.dialect == "sqlite" else "warning")
    register(database, "there-1")
    must_fail(rows.check_hosts(settings, database), "ENGRAM_BROKER_URL")
    redis = settings.model_copy(update={"broker_url": "redis://broker/0"})
    assert rows.check_hosts(redis, database).level == "ok"


def test_a_service_that_is_open_to_others(settings: Settings, database: Database) -> None:
    public = settings.model_copy(update={"host": "0.0.0.0", "insecure": True})
    must_fail(rows.check_access(public, database), "engram keys create")
    assert rows.check_access(settings, database).level == "ok"
    with database.write() as session:
        session.add(ApiKey(workspace_id=1, name="k", prefix="p", digest=b"", scopes=[], created_at=utc_now()))
        session.commit()
    assert rows.check_access(public, database).level == "ok"


def test_the_command_says_it_to_people_and_to_machines(tmp_path: Path, closed_port: int) -> None:
    environment = {"ENGRAM_DATA_DIR": str(tmp_path / "var"), "ENGRAM_PORT": str(closed_port)}
    ill = engram("doctor", **environment)
    assert ill.returncode == 1
    assert "engram migrate" in ill.stdout
    assert not (tmp_path / "var").exists(), "it changes nothing"
    assert engram("migrate", **environment).returncode == 0
    well = engram("doctor", "--json", **environment)
    assert (well.returncode, well.stderr) == (0, "")
    said = json.loads(well.stdout)
    assert said["well"] is True
    assert {"check", "level", "found", "cure"} == set(said["findings"][0])
    assert engram("doctor", "--jsn", **environment).returncode == 2


def test_a_running_service_is_found_on_its_port(tmp_path: Path) -> None:
    with run_service({"ENGRAM_DATA_DIR": str(tmp_path)}, tmp_path) as service:
        service.serve()
        service.wait_for(lambda: service.get("/v1/system").json()["workers"])
        settings = Settings(data_dir=tmp_path, port=int(service.http.base_url.port or 0))
        findings = {finding.check: finding for finding in doctor.examine(settings)}
    assert "Engram answers" in findings["port"].found
    assert findings["workers"].found.startswith("1 alive")
    assert not [finding for finding in findings.values() if finding.level == "failure"]
