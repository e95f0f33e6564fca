"""Loading: what is left out is empty meanwhile and real afterwards, and no byte of a training differs for it."""

import subprocess
import sys

from app.loading import leave_out

LEARN_ALL = """
import hashlib, importlib, sys, time, numpy as np
if sys.argv[1:] == ["preloaded"]:
    from app.training.supervision import PRELOADED
    for name in PRELOADED:
        importlib.import_module(name)
from app.lstm import Request, Series, learn
from app.lstm.config import ACTIVATIONS, LOSSES, OPTIMIZERS
steps = np.arange(80)
series = Series.of([50.0 + steps + 9 * np.sin(steps * 2 * np.pi / 12) + np.random.default_rng(seed).normal(0, 2, 80) for seed in (0, 1)])
kinds = [{"optimizer": name} for name in OPTIMIZERS]
kinds += [{"architecture": "plain", "loss": LOSSES[i % 4], "activation": ACTIVATIONS[i % 3], "optimizer": OPTIMIZERS[i % 5]} for i in range(6)]
kinds += [{"l1": 0.01, "input_noise": 0.1, "dropout": 0.2, "num_layers": 2, "gradient_clip": 1.0, "architecture": "plain"}]
for kind in kinds:
    artifact = learn(series, Request(horizon=4, season_lengths=(12,), max_steps=4, **kind), on_progress=lambda progress: None, clock=time.monotonic).artifact
    print(hashlib.sha256(artifact).hexdigest())
print("torch._decomp" in sys.modules, file=sys.stderr)
"""


def test_what_is_left_out_is_empty_meanwhile_and_real_afterwards() -> None:
    assert "tabnanny" not in sys.modules
    with leave_out("tabnanny"):
        import tabnanny

        assert not hasattr(tabnanny, "verbose")
    import tabnanny

    assert tabnanny.verbose == 0


def test_what_was_loaded_before_stays_as_it_is() -> None:
    with leave_out("subprocess"):
        import subprocess as again

        assert again is subprocess
    assert sys.modules["subprocess"] is subprocess


def test_a_child_of_the_forkserver_learns_the_same_bytes_without_what_is_left_out() -> None:
    whole, preloaded = (
        subprocess.run([sys.executable, "-c", LEARN_ALL, *arguments], capture_output=True, text=True, check=True)
        for arguments in ([], ["preloaded"])
    )
    assert len(whole.stdout.split()) == 12
    assert preloaded.stdout == whole.stdout
    assert (whole.stderr.split()[-1], preloaded.stderr.split()[-1]) == ("True", "False")


def test_a_worker_loads_no_library_for_colourful_tracebacks() -> None:
    load = "import sys; from app.loading import load_quietly\nwith load_quietly(): import workers.celery_app\n"
    code = load + "assert 'structlog' in sys.modules and 'rich.traceback' not in sys.modules; import rich.traceback"
    subprocess.run([sys.executable, "-c", code], check=True)
