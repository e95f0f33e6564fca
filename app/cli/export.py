"""`engram export`: a dataset into a file, for outside with masked ids and with noise."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.connection import DEFAULT_URL, AsJson, KeyFile, Local, Service, Url, connect
from app.cli.failure import Failure

if TYPE_CHECKING:
    import polars as pl

commands = typer.Typer()
MAX_QUERY_BYTES = 16_384
"""Of the ids in one request's URL."""
MAX_OBSERVATIONS = 2_000_000
"""Of one request, unless a single series has more."""
ARROW = "application/vnd.apache.arrow.stream"
MASK_DIGITS = 16


@commands.command("export")
def export(
    dataset: Annotated[str, typer.Argument(help="What is exported.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file, .csv or .parquet; one that is there is not touched.")
    ],
    prefix: Annotated[str, typer.Option(help="Only series whose id begins with this.")] = "",
    mask_key: Annotated[
        Path | None,
        typer.Option(
            help="Write keyed hashes in place of ids; the file holds the key, and is made if there is none.",
            rich_help_panel="Masking",
        ),
    ] = None,
    noise: Annotated[
        float,
        typer.Option(
            min=0, max=10, help="Add normal noise of so many standard deviations of each series.", rich_help_panel="Masking"
        ),
    ] = 0.0,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Write a dataset's observations to a file; to share it outside, with masked ids and noise."""
    from app.cli.output import print_json

    if output.suffix not in (".csv", ".parquet"):
        raise typer.BadParameter(f"expected a name that ends in .csv or .parquet, found {output.name!r}", param_hint="--output")
    if output.exists():
        raise Failure(f"{output} is there already; give another name, or remove it")
    key = None if mask_key is None else read_mask_key(mask_key)
    with connect(url, key_file, local) as service:
        series, observations = write(output, read_frames(service, dataset, prefix), dataset, key, noise)
    if as_json:
        print_json(
            {"dataset": dataset, "series": series, "observations": observations, "masked": key is not None, "noise": noise}
        )
    else:
        print(
            f"{output}: {observations:,} observations of {series:,} series{', ids masked' if key else ''}{', with noise' if noise else ''}"
        )


def read_mask_key(path: Path) -> bytes:
    """The key; a new one, which only its owner may read, where there is no file yet."""
    import os
    import secrets

    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    key = path.read_text(encoding="utf-8").strip()
    if len(key) < 32:
        raise Failure(f"{path}: expected a key of at least 32 characters, as `openssl rand -hex 32` makes them")
    return key.encode()


def read_frames(service: Service, dataset: str, prefix: str) -> "Iterator[pl.DataFrame]":
    """The dataset in parts of whole series, in the order of their ids; at least one, so that an empty file has its header."""
    import io

    import polars as pl

    path = f"/v1/datasets/{dataset}"
    batches = list_batches(service, path, prefix)
    first = next(batches, None)
    if first is None:
        service.get(path)  # a dataset that is not there is said
        yield pl.DataFrame(schema={"series": pl.String, "timestamp": pl.Datetime("us", "UTC"), "value": pl.Float64})
        return
    for names in (first, *batches):
        answer = service.call("GET", f"{path}/observations", params={"series": names}, headers={"Accept": ARROW})
        yield pl.read_ipc_stream(io.BytesIO(answer.content))


def list_batches(service: Service, path: str, prefix: str) -> Iterator[list[str]]:
    """Ids of series that one request can ask for."""
    from urllib.parse import quote

    names: list[str] = []
    size = count = 0
    cursor = None
    while True:
        page = service.get(f"{path}/series", limit=1000, cursor=cursor, prefix=prefix or None)
        for item in page["items"]:
            more = len(quote(item["id"])) + len("&series=")
            if names and (size + more > MAX_QUERY_BYTES or count + item["count"] > MAX_OBSERVATIONS):
                yield names
                names, size, count = [], 0, 0
            names.append(item["id"])
            size, count = size + more, count + item["count"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    if names:
        yield names


def write(output: Path, frames: "Iterator[pl.DataFrame]", dataset: str, key: bytes | None, noise: float) -> tuple[int, int]:
    """(series, observations) written. A file that could not be finished does not take the name."""
    import polars as pl

    half = output.with_name(f"{output.name}.part")
    series = observations = 0
    kept: list[pl.DataFrame] = []
    with half.open("wb") as file:
        for number, frame in enumerate(frames):
            series, observations = series + frame["series"].n_unique(), observations + len(frame)
            changed = add_noise(frame, noise) if noise else frame
            changed = changed if key is None else mask(changed, dataset, key)
            if output.suffix == ".csv":
                file.write(changed.write_csv(include_header=number == 0, datetime_format="%Y-%m-%dT%H:%M:%SZ").encode())
            else:
                kept.append(changed)
        if kept:
            pl.concat(kept).write_parquet(file)
    half.rename(output)
    return series, observations


def mask(frame: "pl.DataFrame", dataset: str, key: bytes) -> "pl.DataFrame":
    """The ids as keyed hashes: the same for the same key and dataset, and nobody without the key can try out whose they are. The series
    change their places, since the order of their ids would tell about them."""
    import polars as pl

    names: Sequence[str] = frame["series"].unique().to_list()
    masks = pl.Series([mask_id(name, dataset, key) for name in names], dtype=pl.String)
    masked = frame.with_columns(
        pl.col("series").replace_strict(pl.Series(names, dtype=pl.String), masks, return_dtype=pl.String)
    )
    return masked.sort("series", maintain_order=True)


def mask_id(name: str, dataset: str, key: bytes) -> str:
    import hmac

    return "s" + hmac.digest(key, f"{dataset}\0{name}".encode(), "sha256").hex()[:MASK_DIGITS]


def add_noise(frame: "pl.DataFrame", noise: float) -> "pl.DataFrame":
    """Normal noise of `noise` times the standard deviation of each series' values; missing values stay missing."""
    import numpy as np
    import polars as pl

    dice: Any = np.random.default_rng()
    normal = pl.Series("normal", dice.standard_normal(len(frame)))
    spread = pl.col("value").std().over("series").fill_null(0.0)
    return frame.with_columns(value=pl.col("value") + spread * noise * normal)
