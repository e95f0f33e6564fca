"""`engram keys create | list | revoke | rotate` and `engram workspaces create | list`: on the machine itself, straight at the database."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.connection import AsJson
from app.cli.environment import configure
from app.cli.output import print_json, print_table
from app.cli.parts import DataDir

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.settings import Settings
    from app.tables import ApiKey

keys = typer.Typer(no_args_is_help=True, help="Make, list, revoke and rotate keys, straight at the database.")
workspaces = typer.Typer(no_args_is_help=True, help="Make and list workspaces: what one owns, no other sees.")
Prefix = Annotated[str, typer.Argument(help="The key's prefix, engram_ and nine characters.")]
MAX_DAYS = 3650
MOMENTS = ("created_at", "expires_at", "revoked_at", "last_used_at")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for; several keys may have one name.")],
    scopes: Annotated[str, typer.Option(help="Of read,write,train,predict,admin; admin is all of them.")],
    workspace: Annotated[str, typer.Option(help="Whose things it opens.")] = "default",
    days: Annotated[
        int | None, typer.Option(min=1, max=MAX_DAYS, help="How long it is good; until it is revoked if not said.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once. From the first one on every request needs a key."""
    from app.keys import service
    from app.security import SCOPES, make_pepper

    wanted = scopes.split(",")
    if unknown := sorted(set(wanted) - set(SCOPES)):
        raise typer.BadParameter(f"expected some of {','.join(SCOPES)}, found {unknown[0]!r}", param_hint="--scopes")
    _check_name(name)
    settings = configure(data_dir=data_dir)
    with open_database(settings) as session:
        owner = service.get_workspace(session, workspace)
        expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
        row, key = service.create_key(session, make_pepper(settings), owner.id, name=name, scopes=wanted, expires_at=expires_at)
        note(session, owner.id, "make key", f"{row.prefix}/{name}/{','.join(row.scopes)}")
        session.commit()
        _show(row, key, f"It opens the workspace {workspace!r} for {', '.join(row.scopes)}.", as_json)


@keys.command("list")
def list_keys(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the keys of all workspaces, oldest first, the revoked and the expired too."""
    from app.keys import service

    with open_database(configure(data_dir=data_dir)) as session:
        names = {workspace.id: workspace.name for workspace in service.list_workspaces(session)}
        rows = [
            {
                "prefix": row.prefix,
                "name": row.name,
                "workspace": names[row.workspace_id],
                "scopes": row.scopes,
                **{moment: _write_time(getattr(row, moment)) for moment in MOMENTS},
            }
            for row in service.list_keys(session, None)
        ]
    _print_rows(("prefix", "name", "workspace", "scopes", *MOMENTS), rows, as_json)


@keys.command("revoke")
def revoke_key(prefix: Prefix, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Revoke a key: from the next request on, in every process."""
    from app.keys import service

    with open_database(configure(data_dir=data_dir)) as session:
        row = service.get_key(session, None, prefix)
        service.revoke_key(session, row)
        note(session, row.workspace_id, "revoke key", prefix)
        session.commit()
    if as_json:
        print_json({"prefix": prefix})
    else:
        print(f"{prefix} is revoked")


@keys.command("rotate")
def rotate_key(
    prefix: Prefix,
    overlap_hours: Annotated[
        float, typer.Option(min=0, max=24 * MAX_DAYS, help="How long the old key is good beside the new one.")
    ] = 24,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a new key that may do what this one may, and print it, this once; the old one ends after the overlap."""
    from app.keys import service
    from app.security import make_pepper

    settings = configure(data_dir=data_dir)
    with open_database(settings) as session:
        old = service.get_key(session, None, prefix)
        row, key = service.rotate_key(session, make_pepper(settings), old, timedelta(hours=overlap_hours))
        note(session, row.workspace_id, "rotate key", f"{prefix}/{row.prefix}")
        session.commit()
        _show(row, key, f"{prefix} ends at {_write_time(old.expires_at)}.", as_json)


@workspaces.command("create")
def create_workspace(
    name: Annotated[str, typer.Argument(help="1..64 of a-z 0-9 . _ -, not beginning with . _ -")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a workspace; `engram keys create NAME --workspace ...` then makes keys to it."""
    from app.keys import service

    _check_name(name)
    with open_database(configure(data_dir=data_dir)) as session:
        note(session, service.create_workspace(session, name).id, "make workspace", name)
        session.commit()
    if as_json:
        print_json({"name": name})
    else:
        print(f"workspace {name} is made")


@workspaces.command("limit")
def limit_workspace(
    name: Annotated[str, typer.Argument(help="Whose limits these are.")],
    limits: Annotated[
        list[str] | None,
        typer.Argument(
            help="NAME=NUMBER, such as observations=1000000; 0: none; NAME= goes back to the settings'.", show_default=False
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Give a workspace limits of its own, in the place of the settings', and show what holds for it now."""
    from dataclasses import asdict

    from app.keys import service
    from app.quotas import NAMES, find_limits

    wanted = [one.partition("=") for one in limits or []]
    for kind, equals, number in wanted:
        if kind not in NAMES or not equals or (number and not number.isdecimal()):
            raise typer.BadParameter(f"expected NAME=NUMBER with one of {', '.join(NAMES)}, found {kind + equals + number!r}")
    settings = configure(data_dir=data_dir)
    with open_database(settings) as session:
        workspace = service.get_workspace(session, name)
        own = {**(workspace.limits or {}), **{kind: int(number) for kind, _, number in wanted if number}}
        workspace.limits = {kind: own[kind] for kind in own.keys() - {kind for kind, _, number in wanted if not number}} or None
        if wanted:
            note(session, workspace.id, "limit workspace", f"{name}/{','.join(limits or [])}")
        session.commit()
        found = asdict(find_limits(settings, workspace.limits))
    if as_json:
        print_json({"name": name, "limits": found})
    else:
        print_table(("limit", "most"), [[kind, number or "no limit"] for kind, number in found.items()])


@workspaces.command("list")
def list_workspaces(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the workspaces."""
    from app.keys import service

    with open_database(configure(data_dir=data_dir)) as session:
        rows = [{"name": row.name, "created_at": _write_time(row.created_at)} for row in service.list_workspaces(session)]
    _print_rows(("name", "created_at"), rows, as_json)


@contextmanager
def open_database(settings: "Settings") -> Iterator["Session"]:
    """A session that may write. An embedded database is made and migrated if need be: a key may be the first thing in it."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    import migrations
    from app.database import Database
    from app.errors import Conflict, Unavailable

    database = Database(settings.database_url)
    try:
        if settings.is_database_embedded:
            migrations.upgrade(database)
        elif not migrations.is_usable(database):
            raise Conflict("the database's schema is not this version's: run `engram migrate` first")
        with database.write() as session:
            yield session
    except (OperationalError, InterfaceError) as error:
        raise Unavailable(f"the database cannot be reached: {error.orig}") from error
    finally:
        database.close()


def note(session: "Session", workspace_id: int, action: str, target: str) -> None:
    """The audit log, for what is done at the command line."""
    import getpass

    from app import audit

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = str(os.getuid())
    audit.note(session, workspace_id, f"command line ({user})", action, target)


def _check_name(name: str) -> None:
    from app.tables import NAME_PATTERN

    if not re.fullmatch(NAME_PATTERN, name):
        raise typer.BadParameter(
            f"expected 1..64 of a-z 0-9 . _ -, not beginning with . _ -, found {name!r}", param_hint="NAME"
        )


def _show(row: "ApiKey", key: str, remark: str, as_json: bool) -> None:
    """The key alone on stdout, so that a script can take it; the words for a person on stderr."""
    if as_json:
        print_json({"prefix": row.prefix, "name": row.name, "scopes": row.scopes, "key": key})
        return
    print(
        f"{row.name} {row.prefix} is made. {remark} The key is shown this once; send it as Authorization: Bearer ...",
        file=sys.stderr,
    )
    print(key)


def _write_time(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _print_rows(names: tuple[str, ...], rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        cells = ((row[name] for name in names) for row in rows)
        print_table(names, [[",".join(cell) if isinstance(cell, list) else cell for cell in row] for row in cells])
