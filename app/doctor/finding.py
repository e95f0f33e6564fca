"""What a check says."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """One check's word: what was found, and if it is not well, what to do."""

    check: str
    level: Level
    found: str
    cure: str | None = None


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def warn(check: str, found: str, cure: str) -> Finding:
    """It works, and will not for long, or not well."""
    return Finding(check, "warning", found, cure)


def fail(check: str, found: str, cure: str) -> Finding:
    """Something does not work."""
    return Finding(check, "failure", found, cure)
