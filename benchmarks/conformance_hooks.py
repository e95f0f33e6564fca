"""How schemathesis writes the bodies that are no JSON. Loaded by it (SCHEMATHESIS_HOOKS), never by us."""

from typing import Any

import schemathesis


def _to_bytes(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


for media_type in ("application/x-ndjson", "text/csv", "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream"):
    schemathesis.serializer(media_type)(_to_bytes)
