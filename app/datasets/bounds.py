"""How much one body of observations may hold: a small one may unpack to more than memory has."""

from dataclasses import dataclass
from typing import Any

from app.errors import BodyTooLarge
from app.settings import Settings

CELLS_PER_ROW = 4
"""Of the largest table: as many columns as are read, and one. A wider one has to be shorter."""


@dataclass(frozen=True)
class Bounds:
    """Of one request. The defaults are the settings'."""

    max_rows: int = Settings.model_fields["max_rows"].default
    max_columns: int = Settings.model_fields["max_columns"].default
    max_series: int = Settings.model_fields["max_series_per_request"].default
    unpacking_bytes: int = Settings.model_fields["max_unpacking_bytes"].default
    unpacking_seconds: float = Settings.model_fields["max_unpacking_seconds"].default

    @classmethod
    def of(cls, settings: Settings) -> "Bounds":
        return cls(
            max_rows=settings.max_rows,
            max_columns=settings.max_columns,
            max_series=settings.max_series_per_request,
            unpacking_bytes=settings.max_unpacking_bytes,
            unpacking_seconds=settings.max_unpacking_seconds,
        )

    def check_rows(self, count: int) -> None:
        if count > self.max_rows:
            raise _refuse(self.max_rows, "rows", count, "MAX_ROWS", max_rows=self.max_rows)

    def check_columns(self, count: int) -> None:
        if count > self.max_columns:
            raise _refuse(self.max_columns, "columns", count, "MAX_COLUMNS", max_columns=self.max_columns)

    def check_series(self, count: int) -> None:
        if count > self.max_series:
            raise _refuse(self.max_series, "series", count, "MAX_SERIES_PER_REQUEST", max_series=self.max_series)

    def check_cells(self, count: int) -> None:
        most = self.max_rows * CELLS_PER_ROW
        if count > most:
            raise _refuse(most, "cells", count, "MAX_ROWS", max_cells=most)


def _refuse(most: int, what: str, found: int, setting: str, **facts: Any) -> BodyTooLarge:
    return BodyTooLarge(
        f"one body may hold at most {most} {what}, found {found}; send it in parts (every part may be sent twice without harm), or raise "
        f"ENGRAM_{setting}",
        **facts,
    )
