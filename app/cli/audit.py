"""`engram audit`: who did what, and when, straight from the database."""

from typing import Annotated

import typer

from app.cli.connection import AsJson
from app.cli.environment import configure
from app.cli.parts import DataDir

commands = typer.Typer()
COLUMNS = ("created_at", "workspace", "actor", "action", "target", "request_id")


@commands.command("audit")
def show_audit(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 100,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show who made, ended, moved or deleted what in all workspaces, newest first."""
    from app import audit
    from app.cli.keys import open_database
    from app.cli.output import print_json, print_table
    from app.keys import service

    with open_database(configure(data_dir=data_dir)) as session:
        names = {workspace.id: workspace.name for workspace in service.list_workspaces(session)}
        entries = audit.list_entries(session, None, before=None, limit=limit)
        rows = [
            {
                "created_at": f"{entry.created_at:%Y-%m-%dT%H:%M:%SZ}",
                "workspace": names[entry.workspace_id],
                "actor": entry.actor,
                "action": entry.action,
                "target": entry.target,
                "request_id": entry.request_id,
            }
            for entry in entries
        ]
    if as_json:
        print_json(rows)
    else:
        print_table(COLUMNS, [[row[name] for name in COLUMNS] for row in rows])
