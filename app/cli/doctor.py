"""`engram doctor`: what is wrong with this installation, and what to do."""

import json
from typing import Annotated

import typer

from app.cli.environment import configure

commands = typer.Typer()
COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "failure": typer.colors.RED}


@commands.command()
def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every chunk and artifact, and compare each with its checksum.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Look for the usual mistakes and say the cure of each. Exit code 1 if something does not work; a warning is 0."""
    from dataclasses import asdict

    from app.doctor import examine

    findings = []
    for finding in examine(configure(), is_deep=deep):
        findings.append(finding)
        if not as_json:
            typer.echo(f"{typer.style(f'{finding.level:8}', COLOURS[finding.level])} {finding.check:12} {finding.found}")
            if finding.cure is not None:
                typer.echo(f"{'':21} -> {finding.cure}")
    is_well = all(finding.level != "failure" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"well": is_well, "findings": [asdict(finding) for finding in findings]}, indent=2))
    raise typer.Exit(0 if is_well else 1)
