"""What OpenAPI says of the bodies that pydantic does not see: observations in five formats."""

from typing import Any

from app import contract
from app.datasets.documents import TIMESTAMP_SCHEMA, CompactSeries

TABLE = "series,timestamp,value\na,2024-01-01T00:00:00Z,1.5\na,2024-01-01T01:00:00Z,\n"
TEXT = {"schema": {"type": "string"}, "example": TABLE}
BINARY = {"schema": {"type": "string", "format": "binary"}}

ROW_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["timestamp", "value"],
    "properties": {
        "series": {"type": "string", "description": "Left out of every row: all rows are one series, named as the dataset."},
        "timestamp": TIMESTAMP_SCHEMA,
        "value": {"type": ["number", "null"], "description": "null is a missing value."},
    },
}


def _list_of(field: str, items: dict[str, Any]) -> dict[str, Any]:
    properties = {field: {"type": "array", "minItems": 1, "items": items}}
    return {"type": "object", "additionalProperties": False, "required": [field], "properties": properties}


COMPACT_EXAMPLE = {"series": [{"id": "a", "start": "2024-01-01T00:00:00Z", "freq": "h", "values": [1.5, None]}]}
ROWS_EXAMPLE = {"observations": [{"series": "a", "timestamp": "2024-01-01T00:00:00Z", "value": 1.5}]}

OBSERVATIONS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Observations in any of five formats; `Content-Encoding: gzip` or `zstd` may be used. Tables have one row for each "
        "observation; their columns are found by name (series, series_id, unique_id, item_id; timestamp, ds, date, datetime, time; "
        "value, y, target) or named in the query. A missing value is null, or an empty cell.",
        "content": {
            contract.JSON: {
                "schema": {
                    "oneOf": [_list_of("series", CompactSeries.model_json_schema()), _list_of("observations", ROW_SCHEMA)],
                },
                "examples": {"compact": {"value": COMPACT_EXAMPLE}, "rows": {"value": ROWS_EXAMPLE}},
            },
            contract.NDJSON: {
                "schema": {"type": "string"},
                "example": '{"series": "a", "timestamp": "2024-01-01T00:00:00Z", "value": 1.5}\n',
            },
            contract.CSV: TEXT,
            contract.PARQUET: BINARY,
            contract.ARROW: BINARY,
        },
    }
}
"""For `openapi_extra`."""

OBSERVATIONS_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The observations, ordered by series and time, in the format that Accept prefers. Steps never sent are left out.",
        "content": {contract.JSON: {}, contract.CSV: TEXT, contract.PARQUET: BINARY, contract.ARROW: BINARY},
    }
}
"""For `responses`."""

NAMED = {"dataset": "$request.path.dataset"}
DATASET_LINKS = contract.link_to(
    "GET /v1/datasets/{dataset}",
    "PATCH /v1/datasets/{dataset}",
    "POST /v1/datasets/{dataset}/observations",
    "DELETE /v1/datasets/{dataset}",
    **NAMED,
)
"""For `responses`: what may be done with a dataset that is there."""
OBSERVATIONS_LINKS = contract.link_to(
    "GET /v1/datasets/{dataset}/series",
    "GET /v1/datasets/{dataset}/observations",
    "GET /v1/datasets/{dataset}/overview",
    "DELETE /v1/datasets/{dataset}/observations",
    **NAMED,
)
