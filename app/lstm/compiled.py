"""Forecasts by compiled code (app/lstm/native), where it was built: what app/lstm/ensemble.py answers, in a tenth of its time and without torch.

Building is setup.py's, with any C compiler; without one everything works, slower. `ctypes` hands pointers over: the library knows nothing
of Python, and the interpreter is free for other threads meanwhile.
"""

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.lstm import tables
from app.lstm.config import MAX_CONTEXT_LENGTH, Config
from app.lstm.windows import Floats, fit_length

Reals = npt.NDArray[np.float32]
Tensors = Mapping[str, npt.NDArray[Any]]

LONG, REAL, DOUBLE, ADDRESS = ctypes.c_long, ctypes.c_float, ctypes.c_double, ctypes.c_void_p
TILE, LANES = 16, 8
"""As in app/lstm/native/engine.h, whose structs those below are, and those of steps.py and objective.py, field by field."""


class Fitting(ctypes.Structure):
    _fields_ = (
        *((name, LONG) for name in ("length", "horizon", "seasons", "kinds", "width")),
        *((name, ADDRESS) for name in ("season_lengths", "alphas", "holt")),
        *((name, REAL) for name in ("fading", "widest_logarithm", "floor_share")),
        *((name, LONG) for name in ("smoothed", "first_slope", "unjudged")),
    )


class Preparation(ctypes.Structure):
    _fields_ = (
        ("fitting", ADDRESS),
        *((name, LONG) for name in ("reach", "past", "history", "context", "horizon", "quantiles", "season", "scaling_season")),
        *((name, LONG) for name in ("bases", "features", "slots", "takes_logarithms", "has_several_seasons")),
        *((name, ADDRESS) for name in ("recent", "steps")),
        *(("shapes", LONG), ("shape_seasons", ADDRESS)),
        *(("smoothings", LONG), ("smoothed_seasons", ADDRESS), ("smoothed", ADDRESS)),
        *((name, ADDRESS) for name in ("slot", "spread", "shared", "first_bias", "ahead")),
        *((name, ADDRESS) for name in ("second", "second_bias", "third", "third_bias", "sharing", "normal_gaps")),
        *((name, REAL) for name in ("caution", "widening", "least_unit")),
    )


class Layer(ctypes.Structure):
    _fields_ = tuple((name, ADDRESS) for name in ("from_input", "from_state", "bias"))


class Net(ctypes.Structure):
    _fields_ = (
        *((name, ADDRESS) for name in ("layers", "head_state", "head_known", "head_bias")),
        *((name, ADDRESS) for name in ("middle", "middle_bias", "out", "out_bias")),
    )


class Model(ctypes.Structure):
    _fields_ = (
        *((name, ADDRESS) for name in ("windows", "elder", "nets")),
        *((name, LONG) for name in ("count", "patch", "layers", "hidden", "padded", "wide", "outputs", "median")),
        *((name, DOUBLE) for name in ("net_weight", "widest")),
        ("stretches", ADDRESS),
    )


@dataclass(frozen=True)
class Library:
    """The functions of app/lstm/native/engine.h, of the kind that this processor runs fastest."""

    count_fitting_room: Callable[..., int]
    count_preparing_room: Callable[..., int]
    count_room: Callable[..., int]
    count_step_room: Callable[..., int]
    count_pinball_room: Callable[..., int]
    fit_bases: Callable[..., None]
    prepare_windows: Callable[..., None]
    forecast: Callable[..., None]
    run_steps: Callable[..., None]
    run_steps_back: Callable[..., None]
    run_pinball: Callable[..., float]


@cache
def load_library() -> Library | None:
    """None where it was not built, or for another kind of machine."""
    for path in (Path(__file__).with_name(f"_native{suffix}") for suffix in EXTENSION_SUFFIXES):
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:
                return None
            return choose_kind(library, "avx2" if library.has_avx2() else "any")
    return None


def choose_kind(library: ctypes.CDLL, kind: str) -> Library:
    functions = {name: library[f"{name}_{kind}"] for name in Library.__dataclass_fields__}
    for name, function in functions.items():
        function.restype = LONG if name.startswith("count") else None
        function.argtypes = [ADDRESS]
    functions["fit_bases"].argtypes = [ADDRESS, LONG, *[ADDRESS] * 8]
    functions["prepare_windows"].argtypes = [ADDRESS, LONG, LONG, *[ADDRESS] * 11]
    functions["forecast"].argtypes = [ADDRESS, LONG, LONG, *[ADDRESS] * 3]
    functions["run_steps"].argtypes = [ADDRESS, ADDRESS]
    functions["run_steps_back"].argtypes = [ADDRESS, *[ADDRESS] * 3]
    functions["run_pinball"].argtypes = [ADDRESS, ADDRESS]
    functions["run_pinball"].restype = DOUBLE
    return Library(**functions)


class Pointing:
    """Builds structs and keeps alive what they point at."""

    def __init__(self) -> None:
        self._kept: list[object] = []
        self.bytes = 0

    def reals(self, array: npt.ArrayLike) -> int:
        return self._keep(np.ascontiguousarray(array, dtype=np.float32))

    def longs(self, array: npt.ArrayLike) -> int:
        return self._keep(np.ascontiguousarray(array, dtype=np.dtype(LONG)))

    def weights(self, matrix: npt.NDArray[Any], rows: int = 0) -> int:
        """[in, out] in the order in which products read it, filled up with zeros to `rows` and to whole tiles."""
        filled = fill_up(matrix, max(rows, len(matrix)), matrix.shape[1] + -matrix.shape[1] % TILE)
        return self.reals(filled.reshape(len(filled), -1, TILE).swapaxes(0, 1))

    def bias(self, vector: npt.NDArray[Any]) -> int:
        return self.reals(fill_up(vector[None], 1, len(vector) + -len(vector) % TILE))

    def struct(self, struct: ctypes.Structure) -> int:
        self._kept.append(struct)
        return ctypes.addressof(struct)

    def structs(self, structs: list[Any]) -> int:
        array = (type(structs[0]) * len(structs))(*structs)
        self._kept.append(array)
        return ctypes.addressof(array)

    def _keep(self, array: npt.NDArray[Any]) -> int:
        self._kept.append(array)
        self.bytes += array.nbytes
        return array.ctypes.data


_rooms: list[Reals] = []
"""Room to work in, which calls hand on: a new one each time would have to be cleared by the system."""


def borrow_room(size: int) -> Reals:
    """At least so many floats, in which anything may stand."""
    try:
        room = _rooms.pop()
    except IndexError:
        return np.empty(size, np.float32)
    return room if len(room) >= size else np.empty(size, np.float32)


def describe_fitting(
    pointing: Pointing, length: int, horizon: int, season_lengths: tuple[int, ...], kinds: int, width: int
) -> Fitting:
    """`width`: how many bases a row of the forecasts has, of which these are some."""
    lengths = [m for _, m in tables.list_fitted(length, season_lengths)]
    return Fitting(
        *(length, horizon, len(lengths), kinds, width or len(lengths) * kinds),
        *(pointing.longs(lengths), pointing.reals(tables.ALPHAS), pointing.reals(np.array(tables.HOLT).T)),
        *(tables.FADING, tables.WIDEST_LOGARITHM, tables.FLOOR),
        *(tables.SMOOTHED, tables.FIRST_SLOPE, tables.UNJUDGED),
    )


class CompiledBases:
    """The fitted forecasts of windows of one length; immutable, so that threads may share it."""

    def __init__(
        self, library: Library, length: int, horizon: int, season_lengths: tuple[int, ...], kinds: tuple[str, ...]
    ) -> None:
        self._library = library
        self._pointing = Pointing()
        self._plan = describe_fitting(self._pointing, length, horizon, season_lengths, len(kinds), 0)
        self._address = ctypes.addressof(self._plan)
        self._shape = horizon, int(self._plan.width)
        self._room = library.count_fitting_room(self._address)

    def __call__(self, window: Reals, mask: Reals, loc: Reals, scale: Reals, log: Reals) -> tuple[Reals, Reals]:
        """window, mask [B, R], contiguous; loc, scale, log [B, 1] -> forecasts [B, H, K], errors [B, K]."""
        B, (H, K) = len(window), self._shape
        forecasts, errors = np.empty((B, H, K), np.float32), np.empty((B, K), np.float32)
        room = borrow_room(self._room)
        arrays = (window, mask, loc, scale, log, forecasts, errors, room)
        self._library.fit_bases(self._address, B, *(array.ctypes.data for array in arrays))
        _rooms.append(room)
        return forecasts, errors


class CompiledPreparation:
    """What windows become before a net sees them; immutable, so that threads may share it."""

    def __init__(self, library: Library, config: Config, prior: Tensors) -> None:
        """`prior`: its weights, with `prior.` before their names."""
        self._library = library
        self._pointing = Pointing()
        self._windows = describe_windows(self._pointing, config, prior)
        self._address = ctypes.addressof(self._windows)
        self._room = library.count_preparing_room(self._address)
        self.reach = int(self._windows.reach)
        H, K, Q = config.horizon, int(self._windows.bases), len(config.quantile_levels)
        length, features = config.context_length, int(self._windows.features)
        self._shapes = ((length,), (length,), (features,), (H, K), (H, K), (H,), (H, Q - 1), (1,))

    def __call__(self, contexts: Floats) -> tuple[list[Reals], Floats]:
        """Contexts [B, L] -> the fields of Inputs in their order, and what undoes the scalings, [B, 6]: level, whether logarithms were
        taken, loc, scale, low, high."""
        placed = np.ascontiguousarray(fit_length(contexts, self.reach), dtype=np.float64)
        inputs = [np.empty((len(placed), *shape), np.float32) for shape in self._shapes]
        window, mask, features, bases, logits, shift, gaps, unit = inputs
        scalings = np.empty((len(placed), 6))
        room = borrow_room(self._room)
        arrays = (placed, scalings, window, mask, features, bases, logits, shift, gaps, unit, room)
        self._library.prepare_windows(self._address, *placed.shape, *(array.ctypes.data for array in arrays))
        _rooms.append(room)
        return inputs, scalings


class CompiledEnsemble:
    """What an artifact of nets and prior forecasts; immutable, so that threads may share it."""

    def __init__(self, library: Library, config: Config, tensors: Tensors) -> None:
        self._library = library
        self._pointing = pointing = Pointing()
        self._shape = config.horizon, len(config.quantile_levels)
        windows = describe_windows(pointing, config, tensors)
        needs_elder = config.bases == "linear" and config.net_weight < 1
        elder = describe_windows(pointing, set_back(config), tensors) if needs_elder else None
        wide, outputs = (count + -count % TILE for count in (2 * config.hidden_size, count_outputs(config, int(windows.bases))))
        nets = [describe_net(pointing, config, tensors, f"nets.{number}.", windows) for number in range(config.nets)]
        self._model = Model(
            pointing.struct(windows),
            None if elder is None else pointing.struct(elder),
            pointing.structs(nets),
            *(config.nets, config.patch_length, config.num_layers, config.hidden_size, pad(config.hidden_size), wide, outputs),
            config.quantile_levels.index(0.5),
            *(config.net_weight, tables.WIDEST),
            pointing.reals(config.stretches) if config.stretches else None,
        )
        self._address = ctypes.addressof(self._model)
        self._room = library.count_room(self._address)
        self.reach = max(int(windows.reach), 0 if elder is None else int(elder.reach))
        self.bytes = pointing.bytes

    def predict(self, contexts: Floats) -> Floats:
        """Contexts [B, L] -> quantiles [B, H, Q], finite and ordered along Q."""
        placed = np.ascontiguousarray(fit_length(contexts, self.reach), dtype=np.float64)
        quantiles = np.empty((len(placed), *self._shape))
        room = borrow_room(self._room)
        arrays = (placed, quantiles, room)
        self._library.forecast(self._address, *placed.shape, *(array.ctypes.data for array in arrays))
        _rooms.append(room)
        return quantiles


def compile_ensemble(config: Config, tensors: Tensors) -> CompiledEnsemble | None:
    """None where compiled code was not built or does not know this kind. Raises KeyError and ValueError where names or shapes
    do not fit."""
    library = load_library()
    if library is None or config.architecture == "plain" or config.bases not in ("all", "linear"):
        return None
    return CompiledEnsemble(library, config, tensors)


def set_back(config: Config) -> Config:
    """How windows of linear forecasts are prepared for the prior, which knows the fitted ones."""
    length = tables.choose_history_length(config.season_lengths, config.context_length, MAX_CONTEXT_LENGTH, config.horizon)
    return replace(config, bases="all", history_length=length)


def describe_windows(pointing: Pointing, config: Config, tensors: Tensors) -> Preparation:
    """What app/lstm/inputs.py does before the nets. Weights of the prior [out, in] are split as in app/lstm/prior.py."""
    R, H, seasons = config.history_length, config.horizon, config.season_lengths
    is_linear = config.bases == "linear"
    shapes = tables.list_shapes(R, seasons)
    smoothed = tables.list_deseasoned(R, seasons) if is_linear else []
    fitted = [] if is_linear else [f"{kind}.{rank}" for rank, _ in tables.list_fitted(R, seasons) for kind in tables.FITTED]
    names = [*tables.PLAIN, *(name for name, _, _ in shapes), *fitted]
    K, past = len(names) + len(tables.DESEASONED) * len(smoothed), 0 if is_linear else tables.choose_past(R, H)
    maps = [tables.map_without_season(R, m) for _, m in smoothed]
    steps = np.diff(tables.find_deviates(config.quantile_levels))
    about_steps: tuple[int | None, ...] = (*(None,) * 10, pointing.reals(steps))
    fitting, slots = None, 0
    if not is_linear:
        slots = len(tables.SLOTS)
        fitting = pointing.struct(describe_fitting(pointing, R, H, seasons, len(tables.FITTED), K))
        about_steps = describe_prior(pointing, config, tensors, [tables.SLOTS.index(name) for name in names])
    return Preparation(
        fitting,
        *(R + past, past, R, config.context_length, H, len(config.quantile_levels), config.season_length),
        max((m for m in seasons if m <= config.context_length), default=1),
        *(K, tables.WINDOW_FACTS + (1 if is_linear else 2) * K, slots, config.transformation == "log", len(seasons) > 1),
        *(pointing.reals(tables.map_window(R, H)), pointing.reals(tables.count_steps(H))),
        *(len(shapes), pointing.longs([[m, n] for _, m, n in shapes])),
        *(len(smoothed), pointing.longs([m for _, m in smoothed]), pointing.reals(maps)),
        *about_steps,
        *(tables.CAUTION if len(seasons) < 2 else 0.0, tables.WIDENING, tables.LEAST_UNIT),
    )


def describe_prior(pointing: Pointing, config: Config, tensors: Tensors, slot: list[int]) -> tuple[int | None, ...]:
    """The fields of Preparation from `slot` to `normal_gaps`."""
    slots, middle, hidden = len(tables.SLOTS), tables.LEVELS.index(0.5), tables.HIDDEN
    widths = (tables.WINDOW_FACTS + tables.STEP_FACTS + 4 * slots, hidden, hidden, slots + len(tables.LEVELS))
    places = list(enumerate((0, 2, 4)))
    first, second, third = (take(tensors, f"prior.layers.{p}.weight", widths[i + 1], widths[i]) for i, p in places)
    biases = [take(tensors, f"prior.layers.{p}.bias", widths[i + 1]) for i, p in places]
    shared, spread, ahead = np.split(first, [tables.WINDOW_FACTS + 3 * slots, tables.WINDOW_FACTS + 4 * slots], 1)
    gaps = [slots + place for place in range(len(tables.LEVELS)) if place != middle]
    chosen = [*slot, *gaps, slots + middle]
    steps = tables.describe_steps(config.horizon, config.season_length) @ ahead.T  # [H, HIDDEN]
    return (
        pointing.longs(slot),
        *(pointing.weights(spread[:, slot].T), pointing.weights(shared.T), pointing.bias(biases[0]), pointing.reals(steps)),
        *(pointing.weights(second.T), pointing.bias(biases[1])),
        *(pointing.weights(third[chosen].T), pointing.bias(biases[2][chosen])),
        pointing.reals(tables.share_gaps(config.quantile_levels)),
        None,
    )


def describe_net(pointing: Pointing, config: Config, tensors: Tensors, prefix: str, windows: Preparation) -> Net:
    """Weights [out, in] of app/lstm/network.py, those of the gates [4 * hidden, in], each gate filled up by itself."""
    hidden, padded, wide = config.hidden_size, pad(config.hidden_size), 2 * config.hidden_size
    filled = wide + -wide % TILE
    known, outputs = config.context_length + int(windows.features), count_outputs(config, int(windows.bases))

    def take_gates(name: str, *width: int) -> npt.NDArray[Any]:
        gates = take(tensors, f"{prefix}lstm.{name}", 4 * hidden, *width).reshape(4, hidden, -1)
        filled = np.zeros((4, padded, gates.shape[2]), np.float32)
        filled[:, :hidden] = gates
        return filled.reshape(4 * padded, -1).T  # [in, 4 * padded]

    layers = [
        Layer(
            pointing.weights(
                take_gates(f"weight_ih_l{number}", hidden if number else 2 * config.patch_length), padded * bool(number)
            ),
            pointing.weights(take_gates(f"weight_hh_l{number}", hidden)),
            pointing.reals(take_gates(f"bias_ih_l{number}") + take_gates(f"bias_hh_l{number}")),
        )
        for number in range(config.num_layers)
    ]
    head = take(tensors, f"{prefix}head.0.weight", wide, hidden + known)
    middle = take(tensors, f"{prefix}head.3.weight", wide, wide)
    out = take(tensors, f"{prefix}out.weight", outputs, wide)
    biases = [
        take(tensors, f"{prefix}{name}.bias", size) for name, size in (("head.0", wide), ("head.3", wide), ("out", outputs))
    ]
    return Net(
        pointing.structs(layers),
        *(pointing.weights(head[:, :hidden].T), pointing.weights(head[:, hidden:].T), pointing.bias(biases[0])),
        *(pointing.weights(middle.T, filled), pointing.bias(biases[1])),
        *(pointing.weights(out.T, filled), pointing.bias(biases[2])),
    )


def take(tensors: Tensors, name: str, *shape: int) -> npt.NDArray[Any]:
    """Raises KeyError and ValueError: what C code is given must have the size that it counts on."""
    found = tensors[name]
    if found.shape != shape or found.dtype != np.float32:
        raise ValueError(f"{name}: expected float32 {list(shape)}, found {found.dtype} {list(found.shape)}")
    return found


def fill_up(matrix: npt.NDArray[Any], rows: int, columns: int) -> Reals:
    """With zeros behind and below, where there is room for any."""
    if matrix.shape == (rows, columns):
        return matrix
    filled = np.zeros((rows, columns), np.float32)
    filled[: matrix.shape[0], : matrix.shape[1]] = matrix
    return filled


def count_outputs(config: Config, bases: int) -> int:
    return config.horizon * (bases + len(config.quantile_levels) + 1)


def pad(hidden: int) -> int:
    return hidden + -hidden % LANES
