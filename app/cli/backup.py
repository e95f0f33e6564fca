"""`engram backup | restore`: the embedded database as one file, and back."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import AsJson
from app.cli.environment import configure

commands = typer.Typer()
DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded database and queue (ENGRAM_DATA_DIR).")]


@commands.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not be there yet.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write the embedded database, as it is at one moment, to a file. The service goes on meanwhile."""
    from app.backup import back_up
    from app.cli.output import print_json

    done = back_up(configure(data_dir=data_dir), file)
    if as_json:
        print_json({"file": str(file), **asdict(done)})
        return
    print(f"{file}: {done.size_bytes} bytes of database at revision {done.revision}, sha256 {done.sha256}")
    print("the pepper that keys are hashed with is not in it: keep key-pepper (or ENGRAM_KEY_PEPPER) elsewhere")


@commands.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `engram backup` wrote.")],
    data_dir: DataDir = None,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of the database that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup in the place of the embedded database, with the service stopped. A damaged file is refused, and nothing touched."""
    from app.backup import restore
    from app.cli.output import print_json

    done, aside = restore(configure(data_dir=data_dir), file, replace=replace)
    if as_json:
        print_json({**asdict(done), "replaced": None if aside is None else str(aside)})
        return
    print(f"restored: revision {done.revision}, backed up {done.created_at} by version {done.version}")
    if aside is not None:
        print(f"what was there is now {aside}")
