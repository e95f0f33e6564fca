"""`engram datasets | models | versions list | show`, and `engram promote`."""

from typing import Annotated, Any

import typer

from app.cli.connection import DEFAULT_URL, AsJson, KeyFile, Local, Url, connect
from app.cli.output import print_fields, print_json, print_table

commands = typer.Typer()
datasets = typer.Typer(no_args_is_help=True, help="What was observed.")
models = typer.Typer(no_args_is_help=True, help="What forecasts, by name.")
versions = typer.Typer(no_args_is_help=True, help="What the trainings of a model made.")
commands.add_typer(datasets, name="datasets")
commands.add_typer(models, name="models")
commands.add_typer(versions, name="versions")

Dataset = Annotated[str, typer.Argument(help="The name of the dataset.", show_default=False)]
Model = Annotated[str, typer.Argument(help="The name of the model.", show_default=False)]
Version = Annotated[int, typer.Argument(min=1, help="The number of the version.", show_default=False)]
Limit = Annotated[int, typer.Option(min=1, help="How many at most.")]


@datasets.command("list")
def list_datasets(
    limit: Limit = 100, url: Url = DEFAULT_URL, key_file: KeyFile = None, local: Local = False, as_json: AsJson = False
) -> None:
    """List datasets by name."""
    with connect(url, key_file, local) as service:
        items, more = service.list_items("/v1/datasets", limit)
    columns = ("name", "freq", "time_zone", "series", "observations", "updated_at")
    _print_items(items, columns, more, as_json)


@datasets.command("show")
def show_dataset(
    dataset: Dataset, url: Url = DEFAULT_URL, key_file: KeyFile = None, local: Local = False, as_json: AsJson = False
) -> None:
    """Show a dataset."""
    with connect(url, key_file, local) as service:
        _print_one(service.get(f"/v1/datasets/{dataset}"), as_json)


@models.command("list")
def list_models(
    limit: Limit = 100, url: Url = DEFAULT_URL, key_file: KeyFile = None, local: Local = False, as_json: AsJson = False
) -> None:
    """List models by name, with the version that serves."""
    with connect(url, key_file, local) as service:
        items, more = service.list_items("/v1/models", limit)
    if as_json:
        print_json(items)
        return
    rows = [
        (one["name"], one["dataset"], one["horizon"], one["aliases"].get("champion"), one["newest_version"], one["created_at"])
        for one in items
    ]
    print_table(("name", "dataset", "horizon", "serves", "newest", "created_at"), rows, more)


@models.command("show")
def show_model(
    model: Model, url: Url = DEFAULT_URL, key_file: KeyFile = None, local: Local = False, as_json: AsJson = False
) -> None:
    """Show a model: its dataset, its aliases, its newest version."""
    with connect(url, key_file, local) as service:
        _print_one(service.get(f"/v1/models/{model}"), as_json)


@versions.command("list")
def list_versions(
    model: Model,
    limit: Limit = 100,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """List the versions of a model, newest first, with their scores."""
    with connect(url, key_file, local) as service:
        items, more = service.list_items(f"/v1/models/{model}/versions", limit)
    if as_json:
        print_json(items)
        return
    rows = [
        (
            *(one[name] for name in ("version", "aliases", "horizon", "cutoff")),
            one["metrics"].get("skill"),
            (one["metrics"].get("backtest") or {}).get("mase"),
            one["created_at"],
        )
        for one in items
    ]
    print_table(("version", "aliases", "horizon", "cutoff", "skill", "mase", "created_at"), rows, more)


@versions.command("show")
def show_version(
    model: Model,
    version: Version,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Show a version: what it was learned from and how, and its metrics."""
    with connect(url, key_file, local) as service:
        _print_one(service.get(f"/v1/models/{model}/versions/{version}"), as_json)


@commands.command()
def promote(
    model: Model,
    version: Version,
    alias: Annotated[str, typer.Option(help="The alias that moves; champion is what serves.")] = "champion",
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Have a version serve, a newer or (to roll back) an older one: the very next forecast is of it."""
    with connect(url, key_file, local) as service:
        moved = service.put(f"/v1/models/{model}/aliases/{alias}", {"version": version})
    if as_json:
        print_json(moved)
    else:
        print(f"{alias} of {model} is version {version}")


def _print_items(items: list[dict[str, Any]], columns: tuple[str, ...], more: bool, as_json: bool) -> None:
    if as_json:
        print_json(items)
    else:
        print_table(columns, [[one[name] for name in columns] for one in items], more)


def _print_one(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        print_fields(found)
