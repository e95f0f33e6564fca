"""`engram train`, and `engram trainings list | show | watch | cancel | trials`."""

import json
from typing import Annotated, Any, Literal

import typer

from app.cli.connection import DEFAULT_URL, AsJson, KeyFile, Local, Service, Url, connect
from app.cli.failure import Failure
from app.cli.output import print_fields, print_json, print_table

commands = typer.Typer()
trainings = typer.Typer(no_args_is_help=True, help="What is learned, and how it went.")
commands.add_typer(trainings, name="trainings")

Training = Annotated[str, typer.Argument(help="The id of the training.", show_default=False)]
Limit = Annotated[int, typer.Option(min=1, help="How many at most.")]


@commands.command()
def train(
    model: Annotated[str, typer.Argument(help="The model; its first training makes it.", show_default=False)],
    dataset: Annotated[str | None, typer.Option(help="What it learns from; otherwise that of last time.")] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="How many steps it forecasts; otherwise as last time.")] = None,
    body: Annotated[
        str | None, typer.Option(help="""Other fields of the request, as JSON: '{"fit": {"max_seconds": 60}}'.""")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end; exit code 1 if it fails.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Train a model; with no option but its name, as last time on the data of now."""
    wanted = read_body(body)
    wanted |= {name: value for name, value in (("dataset", dataset), ("horizon", horizon)) if value is not None}
    with connect(url, key_file, local) as service:
        training = service.post(f"/v1/models/{model}/trainings", wanted)
        if wait:
            follow(service, training["id"], as_json)
            return
    if as_json:
        print_json(training)
    else:
        print(f"training {training['id']} of {training['model']} is queued; engram trainings watch {training['id']} follows it")


@trainings.command("list")
def list_trainings(
    model: Annotated[str | None, typer.Option(help="Only those of this model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only those on this dataset.")] = None,
    status: Annotated[
        Literal["queued", "running", "succeeded", "failed", "cancelled"] | None, typer.Option(help="Only those that are so.")
    ] = None,
    limit: Limit = 100,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """List trainings, newest first."""
    with connect(url, key_file, local) as service:
        items, more = service.list_items("/v1/trainings", limit, model=model, dataset=dataset, status=status)
    if as_json:
        print_json(items)
        return
    rows = [
        (
            *(one[name] for name in ("id", "model", "dataset", "status")),
            f"{one['progress']['fraction']:.0%}",
            one["version"],
            one["created_at"],
        )
        for one in items
    ]
    print_table(("id", "model", "dataset", "status", "done", "version", "requested"), rows, more)


@trainings.command()
def show(
    training: Training, url: Url = DEFAULT_URL, key_file: KeyFile = None, local: Local = False, as_json: AsJson = False
) -> None:
    """Show a training: progress, what was chosen and why, metrics beside the baseline's."""
    with connect(url, key_file, local) as service:
        found = service.get(f"/v1/trainings/{training}")
    if as_json:
        print_json(found)
    else:
        print_fields(found)


@trainings.command()
def watch(
    training: Training, url: Url = DEFAULT_URL, key_file: KeyFile = None, local: Local = False, as_json: AsJson = False
) -> None:
    """Follow a training to its end; exit code 1 if it fails."""
    with connect(url, key_file, local) as service:
        follow(service, training, as_json)


@trainings.command()
def cancel(
    training: Training, url: Url = DEFAULT_URL, key_file: KeyFile = None, local: Local = False, as_json: AsJson = False
) -> None:
    """Cancel a training: a queued one ends at once, a running one within seconds."""
    with connect(url, key_file, local) as service:
        found = service.post(f"/v1/trainings/{training}/cancel", None)
    if as_json:
        print_json(found)
    else:
        print(f"training {training} is {'cancelled' if found['status'] == 'cancelled' else 'being cancelled'}")


@trainings.command("trials")
def list_trials(
    training: Training,
    limit: Limit = 100,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """List the trials of a search, with what each tried, its score and its seconds."""
    with connect(url, key_file, local) as service:
        items, more = service.list_items(f"/v1/trainings/{training}/trials", limit)
    if as_json:
        print_json(items)
        return
    rows = [
        (
            *(one[name] for name in ("number", "status", "score", "seconds")),
            "best" if one["is_best"] else "",
            " ".join(f"{name}={value}" for name, value in one["tried"].items()),
        )
        for one in items
    ]
    print_table(("number", "status", "score", "seconds", "", "tried"), rows, more)


def read_body(text: str | None) -> dict[str, Any]:
    """The object behind --body. Raises a usage error."""
    try:
        body = json.loads(text or "{}")
    except ValueError as error:
        raise typer.BadParameter(f"not valid JSON: {error}", param_hint="--body") from error
    if not isinstance(body, dict):
        raise typer.BadParameter(f"expected a JSON object, found {text}", param_hint="--body")
    return body


def follow(service: Service, training: str, as_json: bool) -> None:
    """Watches to the end and says how it went. Raises Failure unless it succeeded."""
    from app.cli.watching import describe_end, watch_training

    ended = watch_training(service, training)
    if as_json:
        print_json(ended)
    if ended["status"] != "succeeded":
        problem = ended["problem"] or {}
        raise Failure(f"training {training} {problem.get('detail', 'was cancelled')}".replace("\n", " "), problem)
    if not as_json:
        print(describe_end(service, ended))
