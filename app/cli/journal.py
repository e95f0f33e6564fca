"""How far an import has come, so that the same command goes on where it was interrupted.

A small file in the user's state folder, written after each receipt. Sending a row again does no harm, so the journal only saves time:
where it cannot be written the import begins anew. It is believed only while file, service, dataset and options are the same, and
while the dataset holds at least what was acknowledged.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.cli.batches import Position


class Journal:
    """`identity` is whatever must be the same for the note to hold; `dataset` is how it stands before this run, None if it is new."""

    def __init__(self, identity: dict[str, Any], dataset: dict[str, Any] | None) -> None:
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        self._path = folder / "engram" / "imports" / f"{name[:32]}.json"
        self._dataset = dataset

    def read(self) -> Position:
        """Where to go on, or the beginning."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._path.read_text(encoding="utf-8"))
            held = self._dataset
            if held and held["created_at"] == note["created_at"] and held["observations"] >= note["observations"]:
                return Position(int(note["offset"]), int(note["rows"]))
        return Position()

    def write(self, end: Position, created_at: str, inserted: int) -> None:
        """Everything up to `end` was acknowledged, `inserted` observations of it in this run. `created_at` is the dataset's."""
        before = self._dataset["observations"] if self._dataset else 0
        note = {**asdict(end), "created_at": created_at, "observations": before + inserted}
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft = self._path.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(note), encoding="utf-8")
            draft.replace(self._path)

    def remove(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
