"""Where tensors live. What a GPU would do is tried without one: its choices, its precision on the CPU, and its want of memory."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from app.errors import InvalidRequest
from app.lstm import Request, Series, learn, learning
from app.lstm.architectures import prepare_windows
from app.lstm.choices import choose
from app.lstm.device import Place, choose_device, choose_precision, relieve
from app.lstm.trainer import train_network
from app.lstm.windows import TrainingWindows

CUDA = torch.device("cuda")


def test_auto_takes_what_there_is(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto").type == ("cuda" if there else "cpu")
        assert choose_device("cpu").type == "cpu"


def test_cuda_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidRequest):
        choose_device("cuda")


def test_an_unknown_device_is_refused():
    with pytest.raises(InvalidRequest):
        choose_device("tpu")


def test_a_gpu_gets_larger_batches_and_bfloat16_where_it_has_it(monkeypatch, seasonal):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    series = Series.of([seasonal(400, seed=seed) for seed in range(10)])
    on_cpu, on_cuda = (choose(Request(horizon=6, season_lengths=(12,)), series, device) for device in ("cpu", "cuda"))
    assert on_cuda.batch_size == 4 * on_cpu.batch_size
    assert (on_cpu.precision, on_cuda.precision) == ("float32", "bfloat16")
    assert choose(Request(horizon=6, batch_size=48), series, "cuda").batch_size == 48
    assert choose(Request(horizon=6, batch_size=48), series, "cuda", halvings=2).batch_size == 12
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert choose_precision("cuda") == "float32"


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
@pytest.mark.parametrize("asked", [{}, {"architecture": "plain"}, {"architecture": "plain", "activation": "relu"}])
def test_bfloat16_learns_as_float32_does(monthly, asked):
    request = Request(horizon=6, season_lengths=(12,), max_steps=40, learning_rate=0.01, context_length=24, **asked)
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = replace(choose(request, monthly, "cpu"), precision=precision, dropout=0.0)
        windows, seen = TrainingWindows(monthly, 6, 24), []
        with torch.backends.mkldnn.flags(enabled=False):  # it has no bfloat16 LSTM for a CPU without AVX-512
            network = train_network(windows, prepare_windows(config, torch.device("cpu")), config, 0, seen.append)
        assert all(weights.dtype == torch.float32 for weights in network.parameters())
        losses[precision] = np.mean([report.loss for report in seen[-20:]])
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_want_of_memory_halves_the_batch_then_leaves_the_gpu(monkeypatch, monthly, short_request):
    tried = []
    monkeypatch.setattr(learning, "choose_device", lambda asked: CUDA)
    learn_on = learning.learn_on

    def with_little_memory(place, *rest):
        tried.append((place.device.type, place.halvings))
        if place.device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return learn_on(place, *rest)

    monkeypatch.setattr(learning, "learn_on", with_little_memory)
    learned = learn(monthly, short_request, on_progress=lambda _: None, clock=lambda: 0.0)
    assert tried == [("cuda", 0), ("cuda", 1), ("cuda", 2), ("cpu", 0)]
    assert learned.config["device"] == "cpu"
    assert [warning for warning in learned.warnings if "GPU" in warning] == [
        *2 * ["The GPU ran out of memory: the batches were halved."],
        "The GPU ran out of memory with small batches, too: this was learned on the CPU.",
    ]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB"),
        (RuntimeError, "CUDA error: out of memory"),
        (RuntimeError, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_before_it_goes_on_elsewhere_the_gpus_memory_is_given_back(kind, words, monkeypatch, monthly, short_request):
    """Whoever says that there was none: nothing of the failed attempt is alive when the GPU's cache is emptied."""
    monkeypatch.setattr(learning, "choose_device", lambda asked: CUDA)
    learn_on, held, alive = learning.learn_on, [], []

    def with_little_memory(place, *rest):
        if place.device.type == "cpu":
            return learn_on(place, *rest)
        weights = torch.zeros(3)
        held.append(weakref.ref(weights))
        raise kind(words)

    monkeypatch.setattr(learning, "learn_on", with_little_memory)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[-1]() is not None))
    learned = learn(monthly, short_request, on_progress=lambda _: None, clock=lambda: 0.0)
    assert learned.config["device"] == "cpu"
    assert alive == [False] * 3


def test_other_errors_of_a_gpu_are_not_taken_for_it(monkeypatch, monthly, short_request):
    monkeypatch.setattr(learning, "choose_device", lambda asked: CUDA)

    def with_a_fault(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(learning, "learn_on", with_a_fault)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        learn(monthly, short_request, on_progress=lambda _: None, clock=lambda: 0.0)


def test_want_of_memory_on_the_cpu_is_not_hidden(monkeypatch, monthly, short_request):
    def without_memory(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(learning, "learn_on", without_memory)
    with pytest.raises(torch.OutOfMemoryError):
        learn(monthly, replace(short_request, device="cpu"), on_progress=lambda _: None, clock=lambda: 0.0)


def test_relief_ends():
    place, steps = Place(CUDA), 0
    while place.device.type == "cuda":
        place, _ = relieve(place)
        steps += 1
    assert (steps, place.halvings) == (3, 0)
