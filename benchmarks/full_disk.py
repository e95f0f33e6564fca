"""A disk that fills up while observations come: every answer is 200 or 507, and what was acknowledged is there afterwards.

    python -m benchmarks.full_disk [sqlite] [postgresql] [--megabytes 16]

The database lives on a file system in memory of `--megabytes` (PostgreSQL: in a tablespace there), made and taken away by this
program: it needs Linux and root, and for PostgreSQL a server on this machine. When it is full, it is made twice as large.
"""

import argparse
import os
import pwd
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import sqlalchemy as sa

from app.database import Database
from app.doctor import deep
from app.settings import Settings
from tests.processes import Service, run_service

POSTGRES_URL = os.environ.get("ENGRAM_TEST_POSTGRES_URL", "postgresql://127.0.0.1:5432/postgres")
POINTS, SECONDS_FULL = 20_000, 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("databases", nargs="*", default=[], help="sqlite, postgresql; both if none is named")
    parser.add_argument("--megabytes", type=int, default=16)
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        print("skipped: a file system can be mounted by root on Linux only")
        return
    failed = [name for name in arguments.databases or ["sqlite", "postgresql"] if run(name, arguments.megabytes)]
    sys.exit(1 if failed else 0)


def run(name: str, megabytes: int) -> bool:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, mount(Path(folder) / "disk", megabytes) as disk:
        if name == "sqlite":
            return fill(name, {"ENGRAM_DATA_DIR": str(disk)}, disk, megabytes)
        with make_database(Path(folder), disk) as url:
            return fill(name, {"ENGRAM_DATA_DIR": folder, "ENGRAM_DATABASE_URL": url}, disk, megabytes)


@contextmanager
def mount(disk: Path, megabytes: int) -> Iterator[Path]:
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextmanager
def make_database(folder: Path, disk: Path) -> Iterator[str]:
    """A PostgreSQL database whose tables lie on the disk; its journal does not."""
    name, user = f"engram_full_{os.getpid()}", pwd.getpwnam("postgres")
    folder.chmod(0o755)
    os.chown(disk, user.pw_uid, user.pw_gid)
    with psycopg.connect(POSTGRES_URL, autocommit=True) as connection:
        connection.execute(f"CREATE TABLESPACE {name} LOCATION '{disk}'")
        try:
            connection.execute(f"CREATE DATABASE {name} TABLESPACE {name}")
            yield sa.make_url(POSTGRES_URL).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"DROP TABLESPACE {name}")


def fill(name: str, environment: dict[str, str], disk: Path, megabytes: int) -> bool:
    """Whether anything was answered or kept otherwise than it should be."""
    with run_service({**environment, "ENGRAM_LOG_LEVEL": "error"}, Path(environment["ENGRAM_DATA_DIR"])) as service:
        service.migrate()
        service.start_api()
        answers: Counter[int] = Counter()
        kept: dict[str, bool] = {}
        first_full = 0.0
        number = 0
        while not first_full or time.monotonic() - first_full < SECONDS_FULL:
            status = write(service, number)
            answers[status] += 1
            kept[f"d{number}"] = status == 200
            if status != 200 and not first_full:
                first_full = time.monotonic()
            number += 1
        ready = service.get("/health/ready").status_code
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        whole = check(service, kept)
        subprocess.run(["mount", "-o", f"remount,size={2 * megabytes}m", str(disk)], check=True)
        again = write(service, number)
        kept[f"d{number}"] = again == 200
        whole &= check(service, kept)
    settings = Settings(data_dir=Path(environment["ENGRAM_DATA_DIR"]), database_url=environment.get("ENGRAM_DATABASE_URL", ""))
    database = Database(settings.database_url)
    findings = [deep.check_pages(settings, database), deep.check_observations(settings, database)]
    database.close()
    print(f"{name}: answers {dict(answers)}; ready while full: {ready}; {free / 1024:.0f} KiB free then")
    print(f"  all that was acknowledged is there, and nothing else: {whole}; after room was made a write is answered {again}")
    for finding in findings:
        print(f"  doctor --deep: {finding.check} {finding.level}: {finding.found}")
    return not whole or again != 200 or set(answers) - {200, 507} != set() or any(one.level == "failure" for one in findings)


def write(service: Service, number: int) -> int:
    values = np.random.default_rng(number).normal(size=POINTS).tolist()
    body = {"series": [{"id": "a", "start": 0, "freq": "step", "values": values}]}
    return service.post(f"/v1/datasets/d{number}/observations", json=body).status_code


def check(service: Service, kept: dict[str, bool]) -> bool:
    found = {item["name"]: item["observations"] for item in service.get("/v1/datasets?limit=1000").json()["items"]}
    return found == {name: POINTS for name, is_kept in kept.items() if is_kept}


if __name__ == "__main__":
    main()
