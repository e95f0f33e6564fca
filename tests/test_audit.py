"""Who did what, and when: over HTTP and at the command line, on both databases."""

from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from typer.testing import CliRunner

from app import audit
from app.cli import cli
from app.database import Database, utc_now
from app.keys import service
from app.security import make_pepper
from app.settings import Settings
from app.tables import AuditEntry
from app.training.execution import Executor
from tests.conftest import PEPPER, QUICK, Client


def test_every_deed_that_ends_or_moves_something_is_written_with_who_did_it(
    settings: Settings, database: Database, executor: Executor
) -> None:
    settings = settings.model_copy(update={"key_pepper": Settings(key_pepper=PEPPER).key_pepper})
    with database.write() as session:
        row, key = service.create_key(session, make_pepper(settings), 1, name="k", scopes=["admin"], expires_at=None)
        other = service.create_workspace(session, "other").id
        audit.note(session, other, "engram_other", "delete model", "theirs")
        session.commit()
    with Client(settings) as client:
        client.key = key
        client.post_air()
        client.train(executor, "air", dataset="air", horizon=3, **QUICK)
        client.train(executor, "air", dataset="air", horizon=3, **QUICK)
        waiting = client.post("/v1/models/air/trainings", json={}).json()["id"]
        made = client.post("/v1/keys", json={"name": "made", "scopes": ["read"]}).json()
        deeds = [
            ("DELETE", f"/v1/keys/{made['prefix']}", {}),
            ("POST", f"/v1/trainings/{waiting}/cancel", {}),
            ("PUT", "/v1/models/air/aliases/champion", {"json": {"version": 1}}),
            ("PATCH", "/v1/datasets/air", {"json": {"description": "of no consequence"}}),
            ("PATCH", "/v1/datasets/air", {"json": {"name": "sea"}}),
            ("DELETE", "/v1/datasets/sea/observations?series=air", {}),
            ("DELETE", "/v1/models/air/versions/2", {}),
            ("DELETE", "/v1/datasets/sea", {}),  # refused: a version was learned from it
            ("DELETE", "/v1/models/air", {}),
            ("DELETE", "/v1/datasets/sea?cascade=true", {}),
        ]
        for number, (method, path, options) in enumerate(deeds):
            client.request(method, path, headers={"X-Request-ID": f"deed-{number}"}, **options)
        items = client.get("/v1/audit").json()["items"]
        assert [(item["action"], item["target"], item["request_id"]) for item in reversed(items)][1:] == [
            ("revoke key", made["prefix"], "deed-0"),
            ("cancel training", waiting, "deed-1"),
            ("move alias", "air/champion/1", "deed-2"),
            ("rename dataset", "air/sea", "deed-4"),
            ("delete observations", "sea/air", "deed-5"),
            ("delete version", "air/2", "deed-6"),
            ("delete model", "air", "deed-8"),
            ("delete dataset with its models", "sea", "deed-9"),
        ]
        assert (items[-1]["action"], items[-1]["target"]) == ("make key", f"{made['prefix']}/made/read")
        assert {item["actor"] for item in items} == {row.prefix}
        page = client.get("/v1/audit?limit=2").json()
        assert page["items"] == items[:2]
        assert client.get(f"/v1/audit?limit=2&cursor={page['next_cursor']}").json()["items"] == items[2:4]


def test_what_is_done_at_the_command_line_is_written_too(tmp_path: Path) -> None:
    run = CliRunner().invoke
    option = f"--data-dir={tmp_path}"
    assert run(cli, ["workspaces", "create", "team", option]).exit_code == 0
    key = run(cli, ["keys", "create", "k", "--scopes=read", "--workspace=team", option]).stdout.strip()
    rotated = run(cli, ["keys", "rotate", key[:16], option]).stdout.strip()
    assert run(cli, ["keys", "revoke", rotated[:16], option]).exit_code == 0
    assert run(cli, ["workspaces", "limit", "team", "series=5", option]).exit_code == 0
    shown = run(cli, ["audit", option]).stdout
    for deed in (
        "make workspace",
        "make key",
        "rotate key",
        "revoke key",
        "limit workspace",
        "team/series=5",
        "command line (",
    ):
        assert deed in shown
    assert key not in shown
    assert run(cli, ["workspaces", "limit", "team", "sheep=5", option]).exit_code == 2
    assert '"series": 5' in run(cli, ["workspaces", "limit", "team", "--json", option]).stdout
    assert '"series": 0' in run(cli, ["workspaces", "limit", "team", "series=", "--json", option]).stdout


def test_old_entries_go_when_the_house_is_kept(database: Database) -> None:
    with database.write() as session:
        for _ in range(3):
            audit.note(session, 1, "a", "delete model", "m")
        session.flush()
        session.execute(sa.update(AuditEntry).where(AuditEntry.id < 3).values(created_at=utc_now() - timedelta(days=2)))
        assert audit.remove_entries(session, written_before=utc_now() - timedelta(days=1), limit=10) == 2
        assert len(audit.list_entries(session, None, before=None, limit=10)) == 1
