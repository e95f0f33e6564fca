"""Others on the same series, in the same run: python -m benchmarks.rivals --data DIR --python PATH [--sets m3_yearly] [--models dot ets]

PATH is a Python with statsforecast, neuralforecast and gluonts[torch], as an environment of its own: their pins are not ours. Each forecasts the
test file as it comes, on one core; beside it are seasonal naive and ours, a zero-config training. OWA is over Naive2; seconds are CPU
seconds of fit and forecast, without the loading of libraries.
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from app.lstm.metrics import mase_scale, score
from benchmarks.accuracy import score_set
from benchmarks.naive2 import naive2
from benchmarks.series_sets import FREQUENCIES, SeriesSet, load

Forecasts = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

READ = """
import sys, time, warnings
import numpy as np, pandas as pd
warnings.filterwarnings("ignore")
given = np.load(sys.argv[1], allow_pickle=False)
horizon, season, lengths = int(given["horizon"]), int(given["season"]), given["lengths"]
series = np.split(given["values"], np.cumsum(lengths)[:-1])
table = pd.DataFrame({"unique_id": np.repeat([f"s{n:05}" for n in range(len(series))], lengths),
                      "ds": np.concatenate([np.arange(1, n + 1) for n in lengths]), "y": given["values"]})
def lay_out(found, column):
    found = found.reset_index() if "unique_id" not in found else found
    return found.sort_values(["unique_id", "ds"])[column].to_numpy().reshape(len(series), horizon)
"""
STATS = """
from statsforecast import StatsForecast
from statsforecast.models import {name}
started = time.process_time()
found = StatsForecast(models=[{name}(season_length=season)], freq=1, n_jobs=1).forecast(df=table, h=horizon)
seconds, forecasts = time.process_time() - started, lay_out(found, "{name}")
"""
NEURAL = """
from neuralforecast import NeuralForecast
from neuralforecast.models import LSTM
started = time.process_time()
model = NeuralForecast(models=[LSTM(h=horizon, start_padding_enabled=bool(lengths.min() < 4 * horizon), accelerator="cpu", enable_progress_bar=False, logger=False)], freq=1)
model.fit(df=table)
found = model.predict()
seconds = time.process_time() - started
forecasts = lay_out(found, [name for name in found.columns if name.startswith("LSTM")][0])
"""
DEEPAR = """
from gluonts.dataset.common import ListDataset
from gluonts.torch import DeepAREstimator
freq = {24: "h", 12: "M", 4: "Q"}.get(season, "Y")
data = ListDataset([{"start": "2000-01-01", "target": values.astype(np.float32)} for values in series], freq=freq)
started = time.process_time()
predictor = DeepAREstimator(freq=freq, prediction_length=horizon,
                            trainer_kwargs={"enable_progress_bar": False, "logger": False, "accelerator": "cpu"}).train(data)
forecasts = np.stack([found.quantile(0.5) for found in predictor.predict(data)])
seconds = time.process_time() - started
"""
WRITE = """
np.savez(sys.argv[2], seconds=seconds, forecasts=forecasts)
"""
MODELS = {
    "dot": ("statsforecast DynamicOptimizedTheta", STATS.format(name="DynamicOptimizedTheta")),
    "ets": ("statsforecast AutoETS", STATS.format(name="AutoETS")),
    "lstm": ("neuralforecast LSTM", NEURAL),
    "deepar": ("gluonts DeepAR", DEEPAR),
}


def ask(python: Path, code: str, series: SeriesSet) -> tuple[Forecasts, float]:
    """[S, H] and CPU seconds, of the other interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.npz", Path(folder) / "found.npz"
        lengths = [len(history) for history in series.history]
        np.savez(
            given, values=np.concatenate(series.history), lengths=lengths, horizon=series.horizon, season=series.season_length
        )
        threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "NIXTLA_ID_AS_COL": "1"}
        command = [str(python), "-c", READ + code + WRITE, str(given), str(found)]
        subprocess.run(
            command, check=True, cwd=folder, env={**os.environ, **threads}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        result = np.load(found)
        return result["forecasts"].astype(np.float64), float(result["seconds"])


def measure(series: SeriesSet, forecasts: Forecasts) -> tuple[float, float]:
    """sMAPE and MASE."""
    scales = np.array([mase_scale(history, series.season_length) for history in series.history])
    found = score(np.stack(series.future), forecasts[..., None], (0.5,), scales)
    return float(found["smape"]), float(found["mase"])


def show(series: SeriesSet, who: str, smape: float, mase: float, seconds: float, reference: tuple[float, float]) -> None:
    owa = (smape / reference[0] + mase / reference[1]) / 2
    print(f"{series.name:20s} {who:38s} owa {owa:.3f}  smape {smape:.2f}  mase {mase:.3f}  {seconds:8.1f} CPU s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=[*FREQUENCIES])
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=[*MODELS])
    parser.add_argument("--inner", action="store_true", help="at a cutoff inside the train file")
    arguments = parser.parse_args()
    for name in arguments.sets:
        series = load(arguments.data, name)
        series = series.inner() if arguments.inner else series
        reference = measure(series, np.stack([naive2(h, series.horizon, series.season_length) for h in series.history]))

        repeated = [h[-series.season_length :][np.arange(series.horizon) % series.season_length] for h in series.history]
        show(series, "seasonal naive", *measure(series, np.stack(repeated)), 0.0, reference)
        ours = score_set(series, 0)
        show(series, "ours, as it comes", ours["smape"], ours["mase"], sum(ours["seconds"].values()), reference)
        for model in arguments.models:
            who, code = MODELS[model]
            try:
                forecasts, seconds = ask(arguments.python, code, series)
            except subprocess.CalledProcessError as error:
                print(
                    f"{series.name:20s} {who:38s} did not run: {error.stderr.decode().strip().splitlines()[-1][:160]}",
                    flush=True,
                )
                continue
            show(series, who, *measure(series, forecasts), seconds, reference)


if __name__ == "__main__":
    main()
