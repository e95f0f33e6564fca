"""A training that is broken off and goes on leaves what an uninterrupted one leaves, to the last bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.lstm import Request, Series, learn, learning
from app.lstm import trainer as loop
from app.lstm.choices import choose
from app.lstm.learning import Learned, Progress
from app.lstm.state import from_bytes, to_bytes


def run(
    series: Series, request: Request, at: int | None = None, state: bytes | None = None
) -> tuple[Learned, list[Progress], Any]:
    """What was learned, its progress, and the state after the `at`-th step."""
    seen: list[Progress] = []
    states: list[bytes | None] = []

    def offer(_: int, capture: Any) -> None:
        states.append(capture() if len(states) + 1 == at else None)

    learned = learn(series, request, on_progress=seen.append, clock=lambda: 0.0, offer=offer, state=state)
    return learned, seen, states[at - 1] if at else None


@pytest.mark.parametrize("at", [7, 45, 80, 90])
def test_it_goes_on_to_the_same_bytes(
    monthly: Series, short_request: Request, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """In the first net and the second, while they learn what came before the held-out windows and while they go on to everything."""
    monkeypatch.setattr(loop, "BLOCK", 64)  # several blocks and passes
    monkeypatch.setattr(learning, "choose", lambda *chosen, **held_back: replace(choose(*chosen, **held_back), nets=2))
    request = replace(short_request, max_steps=40, dropout=0.2, max_seconds=None)
    whole, seen, state = run(monthly, request, at)
    assert state is not None
    again, rest, _ = run(monthly, request, state=state)
    assert again.artifact == whole.artifact
    assert again.metrics == whole.metrics
    assert again.config == whole.config
    begun = rest[0].step
    assert begun > 0
    assert [one for one in seen if one.step > begun and one.loss is not None] == [one for one in rest if one.loss is not None]


def test_the_budget_that_was_measured_once_stays(monthly: Series) -> None:
    ticks = iter(np.arange(0, 1e6))
    request = Request(horizon=6, candidate_season_lengths=(12,), max_seconds=60, batch_size=16)
    states: list[bytes] = []

    def offer(_: int, capture: Any) -> None:
        states.append(capture() if len(states) == 20 else b"")

    whole = learn(monthly, request, on_progress=lambda _: None, clock=lambda: float(next(ticks)), offer=offer)
    slower = iter(np.arange(0, 1e6, 7))
    again = learn(monthly, request, on_progress=lambda _: None, clock=lambda: float(next(slower)), state=states[20])
    assert (again.config["steps"], again.artifact) == (whole.config["steps"], whole.artifact)


def test_what_is_damaged_or_of_another_device_is_passed_over(monthly: Series, short_request: Request) -> None:
    whole, _, state = run(monthly, short_request, 5)
    saved = from_bytes(state)
    assert saved is not None
    elsewhere = to_bytes(replace(saved, config=replace(saved.config, device="cuda")))
    for damaged in (
        b"",
        state[: len(state) // 2],
        b"\0" * 100,
        state.replace(b'\\"format\\": 1', b'\\"format\\": 0'),
        elsewhere,
    ):
        assert damaged != state
        again, seen, _ = run(monthly, short_request, state=damaged)
        assert again.artifact == whole.artifact
        assert seen[0].step == 0
