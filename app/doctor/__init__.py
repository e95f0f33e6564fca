"""`engram doctor`: the usual mistakes, each found by a small function that says what to do."""

from collections.abc import Callable, Iterator

import sqlalchemy.exc

from app.database import Database, find_sqlite_file
from app.doctor import deep, machine, rows
from app.doctor.finding import Finding, fail
from app.settings import Settings

OF_THE_MACHINE: tuple[Callable[[Settings], Finding], ...] = (
    machine.check_data_dir,
    machine.check_disk,
    machine.check_file_system,
    machine.check_port,
    machine.check_cores,
    machine.check_torch,
    machine.check_compiled,
    machine.check_broker,
)
OF_THE_DATABASE: tuple[Callable[[Settings, Database], Finding], ...] = (rows.check_database, rows.check_schema)
"""What all that follows needs: where one of them fails, nothing more is looked at."""
OF_THE_ROWS: tuple[Callable[[Settings, Database], Finding], ...] = (
    rows.check_sqlite,
    rows.check_postgresql,
    rows.check_access,
    rows.check_workers,
    rows.check_versions,
    rows.check_clocks,
    rows.check_leases,
    rows.check_hosts,
)

OF_EVERYTHING: tuple[Callable[[Settings, Database], Finding], ...] = (
    deep.check_pages,
    deep.check_observations,
    deep.check_artifacts,
)
"""Asked for with `--deep`: each reads all there is of its kind."""


def examine(settings: Settings, *, is_deep: bool = False) -> Iterator[Finding]:
    """Every check's word, as it comes; with `is_deep` of everything stored too."""
    for of_machine in OF_THE_MACHINE:
        yield of_machine(settings)
    if (file := find_sqlite_file(settings.database_url)) is not None and not file.exists():
        cure = "run `engram migrate` or `engram serve`, which make it, or say where it is: ENGRAM_DATA_DIR, ENGRAM_DATABASE_URL"
        yield fail("database", f"there is no {file}", cure)  # to open it would make it, and this command changes nothing
        return
    try:
        database = Database(settings.database_url)
    except (OSError, ImportError, sqlalchemy.exc.SQLAlchemyError) as error:
        cure = "correct ENGRAM_DATABASE_URL (postgresql://user:password@host/name), or leave it empty for SQLite under ENGRAM_DATA_DIR"
        yield fail("database", f"it cannot be opened: {error}", cure)
        return
    try:
        for check in OF_THE_DATABASE:
            yield (finding := check(settings, database))
            if finding.level == "failure":
                return
        for check in (*OF_THE_ROWS, *(OF_EVERYTHING if is_deep else ())):
            yield check(settings, database)
    except sqlalchemy.exc.SQLAlchemyError as error:
        yield fail(
            "database", f"it went away while it was examined: {error}", "run engram doctor again; the database's log says more"
        )
    finally:
        database.close()
