"""What a body would do, before it does: which columns were recognised, its first observations, and the receipt. Nothing is stored."""

import numpy as np

from app.datasets.observations import Observations
from app.datasets.placing import Settled, place
from app.datasets.schemas import PreviewColumns, PreviewRow
from app.datasets.service import Opened

FIRST_ROWS = 8


def name_columns(observations: Observations, default_series: str) -> PreviewColumns | None:
    """The columns of a table that play the three roles; None of JSON, which has none."""
    if "column" not in observations.place(0, "value"):
        return None
    is_one = observations.names == [default_series]
    return PreviewColumns(
        series=None if is_one else observations.place(0, "series")["column"],
        timestamp=observations.place(0, "timestamp")["column"],
        value=observations.place(0, "value")["column"],
    )


def show_first(observations: Observations, dataset: Opened) -> list[PreviewRow]:
    """The first observations in the order of series and time, as they would be stored."""
    placed = place(observations, Settled(dataset.freq, dataset.phase_us, dataset.time_zone, dataset.aggregate))
    labels = placed.grid.to_labels(placed.steps[:FIRST_ROWS])
    return [
        PreviewRow(series=observations.names[which], timestamp=label, value=None if np.isnan(value) else float(value))
        for which, label, value in zip(placed.series[:FIRST_ROWS].tolist(), labels, placed.values[:FIRST_ROWS], strict=True)
    ]
