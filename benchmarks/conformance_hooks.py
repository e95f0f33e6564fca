"""What schemathesis does not know of this service. Loaded by it (SCHEMATHESIS_HOOKS), never by us.

How the bodies that are no JSON are written; and what is there: of names that the schema allows hardly one is anything's, so that every
second valid one becomes that of the run's own dataset, model or training. Every second valid body of a training or of observations becomes
one that this dataset takes, since no schema tells which timestamps lie on its grid; without them hardly a link would be followed. What is meant to be wrong stays as it is, and so does whatever a link of the document gave.
"""

import os
import zlib
from collections.abc import Callable
from typing import Any

import schemathesis
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase

THERE: dict[str, Any] = {"dataset": "air", "model": "air", "version": 1, "training": os.environ.get("CONFORMANCE_TRAINING", "")}
SERIES = "air"
BODIES: dict[str, Callable[[int], Any]] = {
    "POST /v1/models/{model}/trainings": lambda seed: {
        "dataset": "air",
        "horizon": 1 + seed % 6,
        "fit": {"max_steps": 5, "seed": seed},
    },
    "POST /v1/datasets/{dataset}/observations": lambda seed: {
        "series": [
            {
                "id": f"s{seed % 9}",
                "start": f"19{seed % 40 + 50}-01-01T00:00:00Z",
                "freq": "MS",
                "values": [1.5, None, seed % 99],
            }
        ]
    },
}


def _to_bytes(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


for media_type in ("application/x-ndjson", "text/csv", "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream"):
    schemathesis.serializer(media_type)(_to_bytes)


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    if case.meta is None or case.method.upper() == "DELETE":  # what all are to find must stay
        return
    make_body = BODIES.get(f"{case.method.upper()} {case.operation.path}")
    if (
        make_body
        and _is_valid(case, ParameterLocation.BODY)
        and case.media_type == "application/json"
        and _is_chosen(case.body)
    ):
        seed = zlib.crc32(repr(case.body).encode("utf-8", "replace"))
        case.body = make_body(seed)
        if "observations" in case.operation.path:
            case.path_parameters, case.query = {"dataset": "air"}, {}
    if case.meta.phase.name is TestPhase.STATEFUL:
        return
    if _is_valid(case, ParameterLocation.PATH) and case.path_parameters:
        names = {name: THERE[name] for name, value in case.path_parameters.items() if name in THERE and _is_chosen(value)}
        case.path_parameters = {**case.path_parameters, **names}
    if _is_valid(case, ParameterLocation.QUERY) and case.query and _is_chosen(case.query.get("series")):
        case.query = {**case.query, "series": SERIES}


def _is_valid(case: Any, location: Any) -> bool:
    component = case.meta.components.get(location)
    return component is not None and component.mode.is_positive


def _is_chosen(value: Any) -> bool:
    """The same for the same value: a failure can be called again."""
    return value is not None and zlib.crc32(repr(value).encode("utf-8", "replace")) % 2 == 0
