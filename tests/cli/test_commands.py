"""The commands of a first hour: train, watch, forecast, list, show, promote; and how each says that it cannot."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import redis
import typer

from app.cli import cli
from app.queue import QUEUES
from tests.cli.conftest import Run
from tests.conftest import AIR_CSV
from tests.processes import Service, run_service

ROOT = Path(__file__).parents[2]
QUICK = """--body={"fit": {"max_steps": 30}}"""
LONG = """--body={"fit": {"max_steps": 1000000}}"""
WITHOUT_JSON = {"serve", "api", "worker", "migrate", "scheduler", "alive"}
"""They run, prepare or probe a part; what they tell is a log."""


def list_commands() -> list[tuple[str, click.Command]]:
    """(what is typed, command) of every command that does something."""
    found: list[tuple[str, click.Command]] = []

    def walk(name: str, command: click.Command) -> None:
        if isinstance(command, click.Group) or hasattr(command, "commands"):
            for child, below in command.commands.items():
                walk(f"{name} {child}".strip(), below)
        else:
            found.append((name, command))

    walk("", typer.main.get_command(cli))
    return found


@pytest.fixture
def air(engram: Run, service: Service) -> str:
    """The example as dataset `air`, and a model of it with a version; made once."""
    if service.get("/v1/models/air").status_code == 404:
        assert engram("import", AIR_CSV, "--dataset=air").code == 0
        done = engram("train", "air", "--dataset=air", "--horizon=12", QUICK, "--wait")
        assert done.code == 0, done.err
        assert re.match(r"air has version 1, and serves: its error is \d+% \w+ than seasonal naive's \(MASE ", done.out)
    return "air"


@pytest.mark.parametrize(("name", "command"), list_commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_explains_itself_speaks_json_and_is_documented(name: str, command: click.Command) -> None:
    options = {option: parameter for parameter in command.params for option in parameter.opts}
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None) or getattr(parameter, "hidden", False), f"{name}: {parameter.name} has no help"
    if name not in WITHOUT_JSON:
        assert "--json" in options
    pages = [page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]]
    assert any(f"engram {name}" in page for page in pages)


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, app.cli; print(*{'pydantic', 'numpy', 'polars', 'httpx', 'sqlalchemy', 'rich.progress'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_service(run: Run) -> None:
    done = run("datasets", "list", "--url=http://127.0.0.1:9")
    assert done.code == 1
    assert done.err.startswith("engram: nothing answers at http://127.0.0.1:9: start the service with `engram serve`")
    assert run("datasets", "list", "--url=ftp://here").err.startswith("engram: --url: expected an address like http")


def test_usage_errors(engram: Run) -> None:
    assert engram("forecast").code == 2
    assert engram("train", "air", "--body=[1]").code == 2
    assert engram("train", "air", "--body={").code == 2
    assert engram("versions", "show", "air", "first").code == 2


def test_lists_and_shows(engram: Run, air: str) -> None:
    listed = engram("datasets", "list", "--json").json()
    assert "air" in [one["name"] for one in listed]
    assert engram("datasets", "list").out.split()[:4] == ["NAME", "FREQ", "TIME_ZONE", "SERIES"]
    assert engram("datasets", "show", air, "--json").json()["observations"] == 144
    assert re.search(r"^freq +MS$", engram("datasets", "show", air).out, re.MULTILINE)
    assert engram("models", "show", air, "--json").json()["aliases"]["champion"] >= 1
    assert "air" in engram("models", "list").out
    assert engram("versions", "list", air, "--json").json()[-1]["version"] == 1
    assert engram("versions", "show", air, 1, "--json").json()["horizon"] == 12
    assert "champion" in engram("versions", "list", air).out
    training = engram("trainings", "list", "--model=air", "--status=succeeded", "--json").json()[0]
    assert engram("trainings", "show", training["id"], "--json").json() == training
    assert training["id"] in engram("trainings", "list").out
    missing = engram("models", "show", "none")
    assert (missing.code, missing.out) == (1, "")
    assert missing.err.startswith("engram: there is no model 'none'")


def test_a_list_is_cut_at_its_limit_and_says_so(engram: Run, service: Service, air: str) -> None:
    for name in ("limit-1", "limit-2"):
        assert service.http.put(f"/v1/datasets/{name}", json={}).status_code == 201
    assert len(engram("datasets", "list", "--limit=2", "--json").json()) == 2
    done = engram("datasets", "list", "--limit=2")
    assert len(done.out.splitlines()) == 3
    assert "there are more" in done.err


def test_forecasts_as_table_csv_json_and_chart(engram: Run, air: str) -> None:
    body = engram("forecast", air, "--horizon=3", "--json").json()
    assert (body["model"], body["horizon"], len(body["forecasts"])) == ("air", 3, 1)
    assert engram("forecast", air, "--horizon=3", "--format=json").json() == body
    table = engram("forecast", air, "--series=air", "--horizon=3").out.splitlines()
    assert table[0].split() == ["SERIES", "TIMESTAMP", "Q0.1", "MEDIAN", "Q0.9"]
    assert len(table) == 4
    csv = engram("forecast", air, "--horizon=3", "--format=csv").out.splitlines()
    assert csv[0].startswith("series,timestamp,median,q0.025,")
    assert [line.split(",")[1] for line in csv[1:]] == body["forecasts"][0]["timestamps"]
    chart = engram("forecast", air, "--format=chart", "--cutoff=1959-12-01").out
    assert "━" in chart
    assert "1960-01-01" in chart
    assert engram("forecast", air, "--version=1", "--json").json()["version"] == 1
    assert "no observations of series 'nobody'" in engram("forecast", air, "--series=nobody").err


def test_a_version_is_promoted_and_rolled_back(engram: Run, air: str) -> None:
    done = engram("train", air, "--dataset=air", "--horizon=12", QUICK, "--wait", "--json").json()
    assert engram("models", "show", air, "--json").json()["aliases"]["champion"] == done["version"] > 1
    assert engram("promote", air, 1).out == "champion of air is version 1\n"
    assert engram("forecast", air, "--json").json()["version"] == 1
    assert "has no version 99" in engram("promote", air, 99).err


def test_a_training_that_fails_says_why(engram: Run, service: Service, air: str) -> None:
    impossible = """--body={"fit": {"max_steps": 30, "learning_rate": 1e30, "gradient_clip": 1e30}, "promote": "never"}"""
    done = engram("train", "doomed", "--dataset=air", "--horizon=3", impossible, "--wait")
    assert done.code == 1
    training = engram("trainings", "list", "--model=doomed", "--json").json()[0]
    assert training["status"] == "failed"
    assert training["problem"]["detail"] in done.err
    assert training["id"] in done.err
    assert engram("trainings", "watch", training["id"]).code == 1


def test_leaving_a_training_says_how_to_come_back_and_cancel_ends_it(engram: Run, service: Service, air: str) -> None:
    command = [sys.executable, "-m", "app.cli", "train", "left", "--dataset=air", "--horizon=12", LONG, "--wait"]
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    service.wait_for(lambda: service.get("/v1/trainings?model=left&status=running").json()["items"])
    time.sleep(1)  # it follows the events by now; earlier or later, the answer is the same
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    training = engram("trainings", "list", "--model=left", "--json").json()[0]["id"]
    assert f"engram trainings watch {training} follows it again, engram trainings cancel {training} ends it" in err
    assert "cancelled" in engram("trainings", "cancel", training).out
    watched = engram("trainings", "watch", training)
    assert watched.code == 1
    assert "was cancelled" in watched.err
    assert engram("trainings", "cancel", training).code == 1


def test_without_a_service(run: Run, service: Service, air: str, tmp_path: Path) -> None:
    data = {"ENGRAM_DATA_DIR": str(service.folder)}
    assert run("datasets", "show", air, "--local", "--json", **data).json()["observations"] == 144
    assert run("forecast", air, "--local", "--horizon=2", "--json", **data).json()["horizon"] == 2
    assert run("import", AIR_CSV, "--dataset=local", "--local", "--json", **data).json()["inserted"] == 144
    nothing = run("datasets", "list", "--local", ENGRAM_DATA_DIR=str(tmp_path / "none"))
    assert nothing.code == 1
    assert "there is no database" in nothing.err
    assert not (tmp_path / "none").exists()


def test_the_key_comes_from_a_file_or_the_environment(engram: Run, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("two words\n")
    assert "expected one API key" in engram("datasets", "list", "--key-file", tmp_path / "key").err
    assert "could not be read" in engram("datasets", "list", "--key-file", tmp_path / "absent").err
    assert "ENGRAM_API_KEY: expected one API key" in engram("datasets", "list", ENGRAM_API_KEY="a b").err


def test_the_journey_on_postgresql_and_redis(run: Run, postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    urls = {"ENGRAM_DATABASE_URL": postgres_url, "ENGRAM_BROKER_URL": redis_url, "ENGRAM_DATA_DIR": str(tmp_path)}
    with run_service(urls, tmp_path) as service:
        service.start_parts()
        url = f"--url={service.http.base_url}"
        imported = run("import", AIR_CSV, "--dataset=air", "--batch-bytes=1000", "--json", url).json()
        assert (imported["freq"], imported["inserted"]) == ("MS", 144)
        trained = run("train", "air", "--dataset=air", "--horizon=12", QUICK, "--wait", "--json", url)
        assert trained.json()["version"] == 1
        assert run("forecast", "air", url).code == 0
        assert run("datasets", "list", "--local", "--json", **urls).json()[0]["name"] == "air"
    with redis.Redis.from_url(redis_url) as client:
        client.delete(*QUEUES)
