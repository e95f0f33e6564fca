"""The short forms of what docs/reliability.md tells: each proof runs, sees what it should, and fails when it sees something else."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos import find_doubled, find_lost
from benchmarks.ingest_kills import Writer, count_lost
from tests.processes import ROOT


def run(*arguments: str) -> str:
    """What a proof prints that finds nothing wrong."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_writes_under_kills(database: str, request: pytest.FixtureRequest) -> None:
    if database == "postgresql":
        request.getfixturevalue("postgres_server")
    assert "requests lost or half there: 0; series that differ from their twins: 0" in run(
        "benchmarks.ingest_kills", database, "--kills=4", "--clients=2"
    )


def test_trainings_under_kills() -> None:
    printed = run(
        "benchmarks.chaos",
        "embedded",
        "--trainings=4",
        "--calm=1",
        "--workers=2",
        "--steps=40",
        "--pause",
        "1",
        "3",
        "--seed=1",
    )
    assert "lost 0, duplicated 0" in printed


def test_a_proof_that_loses_something_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    writer = object.__new__(Writer)
    writer.requests = [([1, 2], True), ([2, 3], False), ([4, 5], False)]
    assert count_lost(writer, {1: 0.0, 2: 0.0}) == 0  # neither of those that were cut off is there
    assert count_lost(writer, {1: 0.0, 2: 1.0, 3: 1.0}) == 0  # the second is, whole
    assert count_lost(writer, {1: 0.0, 2: 0.0, 3: 1.0}) == 1  # half of it
    assert count_lost(writer, {1: 0.0}) == 1  # half of one that was acknowledged
    assert count_lost(writer, {1: 0.0, 2: 0.0, 5: 2.0}) == 1
    statuses = {1: "succeeded", 2: "failed", 3: "queued", 4: "succeeded"}
    assert find_lost(statuses, {1: 1, 4: 0}) == [2, 3, 4]
    assert find_doubled({1: 2, 2: 1, 3: 1}, {1: 1, 2: 2, 3: 1}) == [1, 2]
