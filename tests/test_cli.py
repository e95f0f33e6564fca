"""The command line as a person types it: exit codes and words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import migrations

ROOT = Path(__file__).parent.parent


def engram(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["serve", "api"])
def test_an_address_that_others_reach_is_refused(command: str, tmp_path: Path) -> None:
    done = engram(command, "--host=0.0.0.0", ENGRAM_DATA_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "--insecure" in done.stderr


def test_a_wrong_option_is_a_usage_error() -> None:
    assert engram("serve", "--colour=red").returncode == 2
    assert engram("paint").returncode == 2


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    done = engram("migrate", ENGRAM_DATA_DIR=str(tmp_path), ENGRAM_LEASE_SECONDS="soon")
    assert done.returncode == 2
    assert "ENGRAM_LEASE_SECONDS" in done.stderr
    assert "Traceback" not in done.stderr


def test_migrate_may_be_run_again(tmp_path: Path) -> None:
    for _ in range(2):
        done = engram("migrate", ENGRAM_DATA_DIR=str(tmp_path))
        assert (done.returncode, done.stdout) == (0, f"the database is at revision {migrations.head()}\n")


def test_version() -> None:
    assert engram("--version").stdout.startswith("engram ")
