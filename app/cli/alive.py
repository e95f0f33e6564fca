"""`engram alive PART`: what a container's health check asks. No other machine is asked about, and nothing is changed."""

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.environment import configure

if TYPE_CHECKING:
    from app.settings import Settings

commands = typer.Typer()
ANSWER_SECONDS = 3.0


class Part(StrEnum):
    API = "api"
    WORKER = "worker"
    SCHEDULER = "scheduler"


@commands.command()
def alive(part: Annotated[Part, typer.Argument(help="Which part of this host, or of this container.")]) -> None:
    """Say whether a part that runs on this host is alive: exit code 0, or 1 with the reason."""
    settings = configure()
    reason = ask_api(settings) if part is Part.API else look_up(settings, part)
    if reason:
        print(f"engram: {reason}", file=sys.stderr)
        raise typer.Exit(1)


def ask_api(settings: "Settings") -> str:
    """Why the API is not alive; empty if it is."""
    import http.client

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - looked up, not bound
    connection = http.client.HTTPConnection(host, settings.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/health/live")
        status = connection.getresponse().status
    except OSError as error:
        return f"the API does not answer on {host}:{settings.port}: {error}"
    finally:
        connection.close()
    return "" if status == http.client.OK else f"the API answered {status}, expected 200"


def look_up(settings: "Settings", part: Part) -> str:
    """The same of a worker or a scheduler, which has no port: by its row. A database that is away, or not migrated yet, is no fault of theirs."""
    import platform

    import sqlalchemy.exc

    from app.database import Database
    from app.training import presence

    database = Database(settings.database_url)
    try:
        with database.read() as session:
            list_alive = presence.list_workers if part is Part.WORKER else presence.list_schedulers
            found = any(one.name.startswith(f"{platform.node()}-") for one in list_alive(session, settings.sweep_seconds))
    except sqlalchemy.exc.DBAPIError as error:
        print(f"engram: the database is away or not migrated, so nothing is known: {error.orig}", file=sys.stderr)
        return ""
    finally:
        database.close()
    return (
        ""
        if found
        else f"no {part} of {platform.node()} was seen in the last {settings.sweep_seconds * presence.SEEN_PAUSES:g} s"
    )
