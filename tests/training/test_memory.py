"""The kernel's own kill for want of memory: in a memory group of Linux, as a container or a service with a limit is one."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import AIR_CSV, QUICK
from tests.processes import run_service

GROUPS = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Of version 2 and 1."""
MAX_BYTES = 768 * 2**20
LARGE = {"network": {"hidden_size": 1400, "num_layers": 2}, "fit": {"max_steps": 5}}


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory group with a limit of `MAX_BYTES`, empty."""
    parent = GROUPS / "memory" if (GROUPS / "memory").exists() else GROUPS
    folder = parent / f"engram-test-{os.getpid()}"
    try:
        folder.mkdir()
        limit = next(folder / name for name in LIMITS if (folder / name).exists())
        limit.write_text(str(MAX_BYTES))
    except (OSError, StopIteration) as error:
        if folder.exists():
            folder.rmdir()
        pytest.skip(f"no memory group can be made (Linux, root): {error!r}")
    yield folder
    deadline = time.monotonic() + 10
    while (folder / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)  # a forkserver ends when it sees that its worker has
    folder.rmdir()


def test_the_kernel_takes_the_child_and_the_worker_lives(group: Path, tmp_path: Path) -> None:
    with run_service({"ENGRAM_DATA_DIR": str(tmp_path)}, tmp_path) as service:
        service.migrate()
        service.start_api()
        worker = service.start("worker")
        service.wait_for(lambda: service.get("/v1/system").json()["workers"])
        (group / "cgroup.procs").write_text(str(worker.pid))  # its forkserver, and so its children, are born into it
        service.post("/v1/datasets/air/observations", content=AIR_CSV.read_bytes(), headers={"Content-Type": "text/csv"})
        assert service.train("air", dataset="air", horizon=3, **QUICK)["status"] == "succeeded"
        failed = service.train("air", dataset="air", horizon=3, **LARGE)
        assert (failed["status"], failed["attempt"]) == ("failed", 1)
        assert failed["problem"]["type"] == "/problems/out-of-memory"
        assert "was killed because memory ran out" in failed["problem"]["detail"]
        assert 2**26 < failed["problem"]["peak_bytes"] <= MAX_BYTES
        assert worker.poll() is None
        assert service.train("air", dataset="air", horizon=3, **QUICK)["status"] == "succeeded"
        assert worker.poll() is None
