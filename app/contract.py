"""Shapes that the schemas of several rooms share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Step = int | str
"""A point of a dataset's grid: RFC 3339, or an integer where freq is `step`."""
SeriesId = Annotated[str, Field(min_length=1, max_length=256)]


class StrictInput(BaseModel):
    """An unknown field is refused, and no text becomes a number."""

    model_config = ConfigDict(extra="forbid", strict=True)
