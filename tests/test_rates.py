"""Tokens are counted once, whichever process takes them, on both engines."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from app.rates import PREFIX, Rates
from app.settings import Settings

ROOT = Path(__file__).parents[1]
TAKE = """
import sys
from app.rates import Rates
from app.settings import Settings
rates = Rates(Settings(data_dir=sys.argv[1], broker_url=sys.argv[2]))
print(sum(rates.take(sys.argv[3], int(sys.argv[4])).is_allowed for _ in range(int(sys.argv[5]))))
"""


@pytest.fixture(params=["file", "redis"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""
    return Settings(data_dir=tmp_path, broker_url=url)


def test_several_processes_at_once_take_what_there_is_and_no_more(engine: Settings) -> None:
    name, limit, each, began = uuid4().hex, 60, 40, time.monotonic()
    command = [sys.executable, "-c", TAKE, str(engine.data_dir), engine.broker_url, name, str(limit), str(each)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    taken = sum(int(process.communicate(timeout=60)[0]) for process in processes)
    refilled = int((time.monotonic() - began) * limit / 60) + 1
    assert limit <= taken <= limit + refilled < each * len(processes)


def test_an_empty_bucket_says_when_there_is_a_token_again(engine: Settings) -> None:
    rates, name = Rates(engine), uuid4().hex
    first = rates.take(name, 3)
    assert (first.is_allowed, first.remaining) == (True, 2)
    assert [rates.take(name, 3).is_allowed for _ in range(3)] == [True, True, False]
    refused = rates.take(name, 3)
    assert (refused.is_allowed, refused.remaining) == (False, 0)
    assert 18 <= refused.retry_after <= 20
    assert rates.take(name + "x", 3).is_allowed
    rates.close()


def test_tokens_come_back_evenly(engine: Settings) -> None:
    rates, name = Rates(engine), uuid4().hex
    assert sum(rates.take(name, 600).is_allowed for _ in range(700)) >= 600
    assert not rates.take(name, 600).is_allowed
    time.sleep(0.35)
    assert 2 <= sum(rates.take(name, 600).is_allowed for _ in range(20)) <= 8
    rates.close()


def test_a_counter_that_is_away_lets_everything_through(tmp_path: Path) -> None:
    away = Rates(Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1/0", broker_timeout_seconds=0.2))
    blocked = Rates(Settings(data_dir=tmp_path / "none" / "there"))
    began = time.monotonic()
    assert all(rates.take("a", 1).is_allowed for rates in (away, blocked) for _ in range(200))
    assert time.monotonic() - began < 5
    assert PREFIX.startswith("engram:")
