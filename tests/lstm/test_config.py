import subprocess
import sys

import pytest

from app.errors import InvalidRequest
from app.lstm.choices import choose
from app.lstm.config import Config, Request, check


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", "deep"),
        ("activation", "relu"),
        ("loss", "mse"),
        ("optimizer", "lion"),
        ("input_noise", 0.1),
        ("context_length", 0),
        ("context_length", 1025),
        ("quantile_levels", (0.1, 0.9)),
        ("quantile_levels", (0.9, 0.5)),
    ],
)
def test_refuses_what_it_cannot_learn_and_names_it(field, value):
    with pytest.raises(InvalidRequest) as caught:
        check(Request(horizon=3, **{field: value}))
    assert field in caught.value.detail


def test_accepts_the_defaults():
    check(Request(horizon=12))


def test_config_survives_json(monthly):
    config = choose(Request(horizon=6, candidate_season_lengths=(12,)), monthly, "cpu")
    assert Config.from_dict(config.to_dict() | {"from_a_later_version": 1}) == config


def test_importing_the_package_and_the_check_brings_no_torch():
    code = "import sys, app.lstm, app.lstm.config, app.lstm.windows; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
