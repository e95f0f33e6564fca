"""What a search tries next, and which trial is not worth its end: Optuna's algorithms over our own rows.

Optuna keeps nothing: a study is built anew in memory from what the rows say, so that any worker can go on where another died.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study

RANDOM_TRIALS = 5
"""Before the sampler draws conclusions."""
LEAST_CURVES, LEAST_CHECKS = 4, 2
"""A trial is judged from its third validation loss on, beside at least four others."""

Space = Mapping[str, Any]
"""{name: [choices]} or {name: {"low", "high", "log"}}; a range of two integers is one of integers."""


@dataclass(frozen=True)
class Tried:
    """One trial as the sampler sees it: `score` is None while it runs, and where it never came to one."""

    values: Mapping[str, Any]
    score: float | None
    is_open: bool


def ask(space: Space, trials: Sequence[Tried], count: int, seed: int) -> list[dict[str, Any]]:
    """The values of the next `count` trials, by a tree of Parzen estimators (Bergstra et al., 2011)."""
    optuna = _optuna()
    distributions = {name: _distribution(choice) for name, choice in space.items()}
    sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, constant_liar=True, seed=seed + len(trials))
    study: Study = optuna.create_study(sampler=sampler)
    for one in trials:
        state = "RUNNING" if one.is_open else "FAIL" if one.score is None else "COMPLETE"
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[state], values=None if one.score is None else [one.score],
                params={name: one.values[name] for name in space}, distributions=distributions,
            )
        )  # fmt: skip
    return [dict(study.ask(distributions).params) for _ in range(count)]


def is_hopeless(curve: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
    """Whether the best of a trial's validation losses so far is worse than the median of the others' at the same check."""
    if len(curve) <= LEAST_CHECKS or len(others) < LEAST_CURVES:
        return False
    optuna = _optuna()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=LEAST_CURVES, n_warmup_steps=LEAST_CHECKS, n_min_trials=LEAST_CURVES)
    study: Study = optuna.create_study(pruner=pruner)
    for other in others:
        study.add_trial(optuna.trial.create_trial(value=min(other), intermediate_values=dict(enumerate(other))))
    ours = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=dict(enumerate(curve)))
    return bool(pruner.prune(study, ours))


def _distribution(choice: Any) -> Any:
    optuna = _optuna()
    if isinstance(choice, list):
        return optuna.distributions.CategoricalDistribution(choice)
    low, high, log = choice["low"], choice["high"], choice["log"]
    if isinstance(low, int) and isinstance(high, int):
        return optuna.distributions.IntDistribution(low, high, log=log)
    return optuna.distributions.FloatDistribution(low, high, log=log)


@cache
def _optuna() -> Any:
    """Loaded by the first search of a worker: a second and 30 MB that no other training needs."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
