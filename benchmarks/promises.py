"""The long form of tests/test_promises.py: clients, workers and faults in any order against the model of what the service promises.

python -m benchmarks.promises [sqlite] [postgresql] [--examples 60] [--steps 30]
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import migrations
from app import faults
from app.database import Database
from app.settings import Settings
from app.training.execution import Executor
from migrations import scratch
from tests.conftest import Client
from tests.test_promises import drive

POSTGRES_URL = os.environ.get("ENGRAM_TEST_POSTGRES_URL", "postgresql://127.0.0.1:5432/postgres")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("databases", nargs="*", default=[], help="sqlite, postgresql; both if none is named")
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    for name in arguments.databases or ["sqlite", "postgresql"]:
        run(name, arguments.examples, arguments.steps)


def run(name: str, examples: int, steps: int) -> None:
    reached: Counter[str] = Counter()
    arm = faults.arm

    def count(point: str, act: object) -> object:
        reached[point] += 1
        return arm(point, act)  # type: ignore[arg-type]

    faults.arm = count  # type: ignore[assignment]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        url = stack.enter_context(scratch.make_postgres(POSTGRES_URL)) if name == "postgresql" else ""
        settings = Settings(data_dir=Path(folder), database_url=url, log_level="error")
        database = stack.enter_context(closing(Database(settings.database_url)))
        migrations.upgrade(database)
        client = stack.enter_context(Client(settings))
        drive(client, Executor(database, settings, "worker", ("cpu",)), database, examples, steps)
    faults.arm = arm
    print(f"{name}: {examples} histories of up to {steps} steps in {time.monotonic() - begin:.0f} s, every promise kept")
    print(f"  faults that were armed: {dict(sorted(reached.items()))}")


if __name__ == "__main__":
    main()
