"""How a file is imported: what its dataset is, where to begin, batch after batch, and what to say when it stops."""

import gc
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import zstandard

from app.calendar import Grid
from app.cli import whole_steps
from app.cli.batches import Batch, Position, Source, open_source
from app.cli.connection import Service
from app.cli.failure import Failure
from app.cli.journal import Journal
from app.cli.output import make_bar, say
from app.datasets.columns import ColumnOptions

PATIENCE_SECONDS = 60.0
"""How long a service that is away or busy is waited for."""
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
MAX_WARNINGS = 20
COLLECT_BYTES = 16 * 2**20
SCAN_BYTES = 2 * 2**20
"""Batches that are only looked at are small: what a parser makes of them is many times as large."""


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for. `kind`: what the dataset is to be, as far as it was said."""

    file: Path
    dataset: str
    kind: dict[str, str]
    columns: ColumnOptions
    on_conflict: str
    batch_bytes: int
    from_start: bool


class Import:
    """One run of the command."""

    def __init__(self, service: Service, wanted: Wanted) -> None:
        self._service = service
        self._wanted = wanted
        self._path = f"/v1/datasets/{wanted.dataset}"
        self._params: dict[str, Any] = {"on_conflict": wanted.on_conflict}
        self._summary: dict[str, Any] = {
            "dataset": wanted.dataset,
            "freq": None,
            **dict.fromkeys(("received", "inserted", "updated", "unchanged", "missing"), 0),
            "first_timestamp": None,
            "last_timestamp": None,
            "warnings": [],
            "requests": 0,
            "resumed_after_row": 0,
        }

    def run(self) -> dict[str, Any]:
        """The receipts of all requests as one. Raises Failure, which says how far the import came."""
        wanted = self._wanted
        with open_source(wanted.file) as source:
            held = self._settle()
            is_long = source.size is None or source.is_packed or source.size > wanted.batch_bytes
            aggregate = held["aggregate"] if held else None
            journal = self._open_journal(source, held) if aggregate is None else None
            start = journal.read() if journal and not wanted.from_start else Position()
            if is_long and not start.offset and (held is None or held["freq"] is None):
                held = self._find_freq(source, held)
            if start.offset:
                self._summary["resumed_after_row"] = start.rows
                say(f"goes on behind row {start.rows}, which an earlier run has stored; --from-start sends all of it again")
            batches = source.read(wanted.batch_bytes, start)
            if aggregate is not None and is_long and held is not None:
                phase_us = round((held["phase_seconds"] or 0) * 1e6)
                grid = Grid(held["freq"], phase_us, held["time_zone"])
                batches = whole_steps.regroup(batches, wanted.columns, wanted.dataset, grid)
            else:
                self._params |= _to_params(wanted.columns)
            self._send_all(source, batches, journal, held, start)
        return self._summary

    def _settle(self) -> dict[str, Any] | None:
        """The dataset as it stands, and as the command line wants it; None if it is not there yet."""
        if self._wanted.kind:
            settled: dict[str, Any] = self._service.put(self._path, self._wanted.kind)
            return settled
        try:
            found: dict[str, Any] = self._service.get(self._path)
        except Failure as failure:
            if failure.slug != "not-found":
                raise
            return None
        return found

    def _find_freq(self, source: Source, held: dict[str, Any] | None) -> dict[str, Any] | None:
        """Looks through the whole file first. Of stdin only the service can find it, from the first batch."""
        wanted = self._wanted
        if source.size is None:
            if held and held["aggregate"]:
                raise Failure("stdin is read once, so that a dataset with an aggregate needs its freq beforehand: say --freq")
            return held
        time_zone = held["time_zone"] if held else "UTC"
        with make_bar("looking for the freq", "{task.fields[rows]:,} rows") as bar, open_source(wanted.file) as again:
            task = bar.add_task("", rows=0, total=None)

            def watch() -> Iterator[Batch]:
                for batch in again.read(min(wanted.batch_bytes, SCAN_BYTES)):
                    yield batch
                    bar.update(task, rows=batch.end.rows)

            freq = whole_steps.find_freq(watch(), wanted.columns, wanted.dataset, time_zone)
        settled: dict[str, Any] = self._service.put(self._path, {"freq": freq})
        return settled

    def _open_journal(self, source: Source, held: dict[str, Any] | None) -> Journal | None:
        """None for stdin, which cannot be known again."""
        wanted = self._wanted
        if source.size is None:
            return None
        file = wanted.file.resolve()
        identity = {
            "file": [str(file), source.size, file.stat().st_mtime_ns],
            "service": self._service.url,
            "dataset": wanted.dataset,
            "columns": asdict(wanted.columns),
            "on_conflict": wanted.on_conflict,
        }
        return Journal(identity, held)

    def _send_all(
        self, source: Source, batches: Iterator[Batch], journal: Journal | None, held: dict[str, Any] | None, start: Position
    ) -> None:
        end, uncollected = start, 0
        columns = ("{task.description}", "{task.fields[rows]:,} rows", "{task.percentage:>3.0f} %")
        with make_bar(*columns) as bar:
            task = bar.add_task(self._wanted.dataset, rows=start.rows, total=source.size)
            try:
                for batch in batches:
                    self._add(self._send(batch))
                    end = batch.end
                    uncollected += len(batch.body)
                    if uncollected >= COLLECT_BYTES:
                        gc.collect()  # httpx answers hold their requests in a circle: bodies would pile up to hundreds of megabytes
                        uncollected = 0
                    bar.update(task, rows=end.rows, completed=source.bytes_read())
                    if journal is not None:
                        held = held or self._service.get(self._path)
                        journal.write(end, held["created_at"], self._summary["inserted"])
            except KeyboardInterrupt as error:
                raise Failure(f"interrupted. {self._tell_rest(journal, end)}") from error
            except Failure as failure:
                if not end.offset:
                    raise
                raise Failure(f"{failure.detail}. {self._tell_rest(journal, end)}", failure.problem) from failure
        if journal is not None:
            journal.remove()

    def _tell_rest(self, journal: Journal | None, end: Position) -> str:
        if journal is None:
            return "What was sent so far is stored; the same command sends all of it again, which does no harm"
        return f"The file is stored up to row {end.rows}; the same command goes on behind it"

    def _send(self, batch: Batch) -> dict[str, Any]:
        """Again and again while the service is away: a batch that arrives twice changes nothing."""
        body = zstandard.ZstdCompressor(level=1).compress(batch.body)
        headers = {"Content-Type": batch.media_type, "Content-Encoding": "zstd"}
        deadline = time.monotonic() + PATIENCE_SECONDS
        attempt = 0
        while True:
            try:
                answer = self._service.call(
                    "POST", f"{self._path}/observations", content=body, headers=headers, params=self._params
                )
                receipt: dict[str, Any] = answer.json()
            except Failure as failure:
                if failure.may_pass and time.monotonic() < deadline and self._summary["requests"]:
                    time.sleep(PAUSES_SECONDS[min(attempt, len(PAUSES_SECONDS) - 1)])
                    attempt += 1
                    continue
                raise _explain(failure, batch) from failure
            return receipt

    def _add(self, receipt: dict[str, Any]) -> None:
        summary = self._summary
        for name in ("received", "inserted", "updated", "unchanged", "missing"):
            summary[name] += receipt[name]
        summary["freq"] = receipt["freq"]
        for name, choose in (("first_timestamp", min), ("last_timestamp", max)):
            summary[name] = receipt[name] if summary[name] is None else choose(summary[name], receipt[name])
        new = [warning for warning in receipt["warnings"] if warning not in summary["warnings"]]
        summary["warnings"] += new[: MAX_WARNINGS - len(summary["warnings"])]
        summary["requests"] += 1


def _to_params(columns: ColumnOptions) -> dict[str, Any]:
    named = {"series_column": columns.series, "timestamp_column": columns.timestamp, "value_column": columns.value}
    return {name: value for name, value in named.items() if value} | ({"ignore_columns": True} if columns.ignore_others else {})


def _explain(failure: Failure, batch: Batch) -> Failure:
    """The service's no, with rows of the file."""
    if failure.slug == "body-too-large":
        return Failure(f"{failure.detail}; here: a smaller --batch-bytes", failure.problem)
    if failure.slug == "freq-undetermined":
        return Failure(f"{failure.detail}; here: --freq", failure.problem)
    if not failure.problem:
        return failure
    problem = whole_steps.relocate(failure.problem, batch.locate)
    return Failure(problem["detail"], problem)
