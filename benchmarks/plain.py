"""Speed of the plain LSTM beside Keras on torch: python -m benchmarks.plain [--rounds 5]   (needs engram[keras])

The same task for both, taken in turns in one process on one thread: LSTM(50) and a dense layer, Adam, squared error, batches
of 32 out of 1,000 windows, whole training loops (`train_network`, `Model.fit`). Printed are windows learned per CPU second,
the median of the rounds, and how many times Keras' ours is: the median of each round's ratio, with the least and the most.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch

from app.lstm.architectures import prepare_windows
from app.lstm.choices import choose
from app.lstm.config import Request
from app.lstm.trainer import train_network
from app.lstm.windows import Series, TrainingWindows

CASES = (("tanh", 24, 5.0), ("tanh", 96, 5.0), ("relu", 1, 3.0), ("relu", 3, 3.0), ("relu", 24, 1.5))  # and the ratio wanted
WINDOWS, HIDDEN, BATCH = 1000, 50, 32
OUR_EPOCHS, THEIR_EPOCHS = 10, 2  # about as long; ours builds its network anew in each round, theirs is built before


def make_ours(activation: str, length: int, epochs: int) -> Callable[[], None]:
    values = np.random.default_rng(0).standard_normal(WINDOWS + length)
    request = Request(
        architecture="plain", horizon=1, context_length=length, hidden_size=HIDDEN, activation=activation,
        loss="mse", optimizer="adam", batch_size=BATCH, max_epochs=epochs, season_lengths=(),
    )  # fmt: skip
    series = Series.of([values])
    config = choose(request, series, "cpu")
    windows = TrainingWindows(series, 1, length)
    assert len(windows) == WINDOWS
    prepare = prepare_windows(config, torch.device("cpu"))
    return lambda: void(train_network(windows, prepare, config, 0, lambda report: None))


def make_theirs(activation: str, length: int, epochs: int) -> Callable[[], None]:
    values = np.random.default_rng(0).standard_normal(WINDOWS + length).astype(np.float32)
    inputs = np.lib.stride_tricks.sliding_window_view(values[:-1], length)[:WINDOWS, :, None].copy()
    targets = values[length:, None]
    model = keras.Sequential([keras.layers.LSTM(HIDDEN, activation=activation), keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss="mse")
    model.fit(inputs[:BATCH], targets[:BATCH], batch_size=BATCH, epochs=1, verbose=0)  # builds it
    return lambda: void(model.fit(inputs, targets, batch_size=BATCH, epochs=epochs, verbose=0))


def void(_: object) -> None:
    """What a loop gives is not looked at."""


def measure(run: Callable[[], None], epochs: int) -> float:
    began = time.process_time()
    run()
    return epochs * WINDOWS / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"keras {keras.__version__} on torch {torch.__version__}, windows per CPU second")
    for activation, length, wanted in CASES:
        ours, theirs = make_ours(activation, length, OUR_EPOCHS), make_theirs(activation, length, THEIR_EPOCHS)
        ours()
        rounds = [(measure(ours, OUR_EPOCHS), measure(theirs, THEIR_EPOCHS)) for _ in range(arguments.rounds)]
        ratios = [mine / keras_own for mine, keras_own in rounds]
        print(
            f"{activation} T = {length:3d}: ours {statistics.median(r[0] for r in rounds):8,.0f}  "
            f"keras {statistics.median(r[1] for r in rounds):8,.0f}  "
            f"ratio {statistics.median(ratios):5.2f} ({min(ratios):.2f} .. {max(ratios):.2f}), wanted {wanted}"
        )


if __name__ == "__main__":
    main()
