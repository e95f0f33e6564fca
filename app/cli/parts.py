"""`engram serve | api | worker | migrate`: the parts, alone or together."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.environment import configure

if TYPE_CHECKING:
    from app.settings import Settings

commands = typer.Typer()
Host = Annotated[str | None, typer.Option(help="Address to listen on (ENGRAM_HOST).")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one (ENGRAM_PORT).")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded database and queue (ENGRAM_DATA_DIR).")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Serve without keys where others can reach it.")]


@commands.command()
def serve(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    workers: Annotated[int, typer.Option(min=0, help="How many worker processes.")] = 1,
    insecure: Insecure = False,
) -> None:
    """Run everything: migrate, then the API and its workers, until Ctrl-C or SIGTERM."""
    from app.supervisor import serve

    settings = configure(host=host, port=port, data_dir=data_dir, insecure=insecure or None)
    check_keys(settings)
    raise typer.Exit(serve(settings, workers))


@commands.command()
def api(
    host: Host = None,
    port: Port = None,
    insecure: Insecure = False,
    processes: Annotated[
        int, typer.Option(min=1, help="How many processes share the port; one that ends is started again.")
    ] = 1,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    lifeline: Annotated[bool, typer.Option("--lifeline", hidden=True)] = False,
) -> None:
    """Run the API alone."""
    settings = configure(host=host, port=port, insecure=insecure or None)
    check_keys(settings)
    if processes > 1:
        from app.supervisor import serve_api

        raise typer.Exit(serve_api(settings, processes))
    from app.loading import load_quietly

    with load_quietly():
        from app.api_process import run

    run(settings, fd=fd, lifeline=lifeline)


@commands.command()
def worker(
    queues: Annotated[str | None, typer.Option(help="Devices whose trainings it takes: cpu, cuda or both.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Trainings at once (ENGRAM_WORKER_CONCURRENCY).")] = None,
) -> None:
    """Run one worker alone."""
    arguments = [f"--queues={queues}"] if queues is not None else []
    arguments += [f"--concurrency={concurrency}"] if concurrency else []
    os.execv(sys.executable, [sys.executable, "-m", "workers", *arguments])  # noqa: S606 - this interpreter and our own module


@commands.command()
def scheduler() -> None:
    """Run one scheduler alone: it sweeps and keeps house while no worker is there to do so. More than one do no harm."""
    os.execv(sys.executable, [sys.executable, "-m", "workers", "--scheduler"])  # noqa: S606 - this interpreter and our own module


@commands.command()
def migrate() -> None:
    """Bring the database's schema to this version's; one that is newer is left as it is."""
    import migrations
    from app.database import Database

    database = Database(configure().database_url)
    migrations.upgrade(database)
    print(f"the database is at revision {migrations.current(database)}")


def check_keys(settings: "Settings") -> None:
    """Refuses to start where keys are needed and there is none, and where there are some that could not be checked."""
    import sqlalchemy as sa

    from app.database import Database
    from app.security import find_pepper, has_keys
    from app.tables import ApiKey

    database = Database(settings.database_url)
    try:
        with database.read() as session:
            is_needed = sa.inspect(session.connection()).has_table(ApiKey.__tablename__) and has_keys(session)
    except sa.exc.OperationalError:
        return  # the database is away: the API starts, and answers so until it is there
    finally:
        database.close()
    refusal = None
    if not is_needed and not settings.may_be_open:
        refusal = (
            f"{settings.host} can be reached from other machines, so callers need a key, and none was made yet: "
            "`engram keys create NAME --scopes admin` makes the first one and prints it (--insecure serves without keys)"
        )
    elif is_needed and find_pepper(settings) is None:
        refusal = (
            "there are keys, and the secret they are hashed with is not here: set ENGRAM_KEY_PEPPER to what it was, or make new keys "
            "with `engram keys create` (docs/security.md, When the pepper is lost)"
        )
    if refusal:
        print(f"engram: {refusal}", file=sys.stderr)
        raise typer.Exit(2)
