"""`engram erase`: series of a dataset, for good, straight at the database, with a report of every place."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.connection import AsJson
from app.cli.environment import configure
from app.cli.parts import DataDir

if TYPE_CHECKING:
    from app.database import Database

commands = typer.Typer()
BEYOND_REACH = (
    "backups, and the archived log of a PostgreSQL server",
    "files that were exported, and forecasts that were answered",
    "for up to 24 h the first answer to a training request that named the series and had an Idempotency-Key",
    "the audit log, which says that these series were erased",
)


@commands.command("erase")
def erase(
    dataset: Annotated[str, typer.Argument(help="The dataset that the series are of.")],
    series: Annotated[list[str], typer.Option("--series", help="A series' id; the option repeated for several.")],
    workspace: Annotated[str, typer.Option(help="Whose dataset it is.")] = "default",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what there is.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Erase series: values, revisions, kept backtests. Reports every place, and which versions were learned from them."""
    from app.cli.keys import note, open_database
    from app.cli.output import print_json
    from app.database import Database
    from app.datasets import erasing, service
    from app.keys.service import get_workspace

    settings = configure(data_dir=data_dir)
    with open_database(settings) as session:
        owner = get_workspace(session, workspace)
        found = service.get_dataset(session, owner.id, dataset, hold=True)
        rows = service.select_series(session, found.id, series, None, with_empty=True)
        traces = erasing.find_traces(session, found, rows)
        if not dry_run:
            erasing.erase_series(session, rows)
            note(session, owner.id, "erase series", f"{dataset}/{','.join(row.name for row in rows)}")
            session.commit()
    if not dry_run:
        database = Database(settings.database_url)
        forget_pages(database)
        database.close()
    report = {"dataset": dataset, "erased": not dry_run, **vars(traces), "beyond_reach": list(BEYOND_REACH)}
    if as_json:
        print_json(report)
    else:
        print_report(report)


def forget_pages(database: "Database") -> None:
    """What a database keeps of deleted rows for itself: SQLite's journal, PostgreSQL's dead rows."""
    import sqlalchemy as sa

    from app.database import tidy_sqlite

    if database.sqlite_path is not None:
        tidy_sqlite(database.sqlite_path)
    elif database.dialect == "postgresql":
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM series, chunks, backtest_windows"))


def print_report(report: dict[str, Any]) -> None:
    from app.cli.output import print_table, say

    print_table(("series", "observations", "chunks", "backtest windows"), [list(one.values()) for one in report["series"]])
    if report["versions"]:
        say("\nVersions that were learned from them, and serve on until they are deleted:")
        print_table(("model", "version", "aliases"), [list(one.values()) for one in report["versions"]])
    if report["trainings"]:
        say("\nTrainings that name them, or learn from them now:")
        print_table(("training", "model", "status"), [list(one.values()) for one in report["trainings"]])
    say("\nBeyond the reach of this command: " + "; ".join(report["beyond_reach"]) + ".")
    if not report["erased"]:
        say("Nothing was erased (--dry-run).")
