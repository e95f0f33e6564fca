"""Large sets through the workshop: python -m benchmarks.large {wide,long} [--architecture auto]

`wide` is 100,000 series of 100 months, `long` 10 series of 1,000,000 hours; both synthetic, with season and noise. A training with no
budget said, then a forecast of every series from its last 1,024 values, a thousand at a time as the service does it. CPU
seconds on one thread, and the most memory that the process ever had, the data included.
"""

import argparse
import os
import resource
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from app.lstm import Forecaster, Request, Series, learn
from app.lstm.windows import Floats


def make_wide(rng: np.random.Generator) -> tuple[Floats, Request]:
    steps, shape = np.arange(100), (100_000, 1)
    level, phase = 50 + 100 * rng.random(shape), rng.integers(12, size=shape)
    values = level * (1 + 0.3 * np.sin(2 * np.pi * (steps + phase) / 12)) + 5 * rng.standard_normal((len(level), 100))
    return values, Request(horizon=12, candidate_season_lengths=(12,))


def make_long(rng: np.random.Generator) -> tuple[Floats, Request]:
    steps = np.arange(1_000_000)
    clean = 100 + 20 * np.sin(2 * np.pi * steps / 24) + 10 * np.sin(2 * np.pi * steps / 168)
    return clean + 5 * rng.standard_normal((10, len(steps))), Request(horizon=24, candidate_season_lengths=(24, 168))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=["wide", "long"])
    parser.add_argument("--architecture", choices=["auto", "plain"], default="auto")
    arguments = parser.parse_args()
    values, request = (make_wide if arguments.set == "wide" else make_long)(np.random.default_rng(0))
    count, length = values.shape
    series = Series(values.ravel(), np.arange(0, values.size + 1, length))
    request = Request(**{**vars(request), "architecture": arguments.architecture})
    began = time.process_time()
    learned = learn(series, request, on_progress=lambda progress: None, clock=time.process_time)
    print(f"{count:,} x {length:,}: trained in {time.process_time() - began:.1f} s, skill {learned.metrics['skill']:.3f}")
    forecaster, began = Forecaster.from_bytes(learned.artifact), time.process_time()
    for at in range(0, count, 1000):
        forecaster.predict(values[at : at + 1000, -1024:])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"forecast in {time.process_time() - began:.2f} s; at most {memory:.2f} GiB of memory")


if __name__ == "__main__":
    main()
