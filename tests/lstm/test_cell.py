"""The cell is the textbook's: against the equations in numpy, against torch's own, and against Keras where it is installed."""

import ctypes
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from app.lstm import cell, compiled
from app.lstm.cell import ACTIVATIONS, LstmStack, Recurrence

ACTIVATE = {"tanh": np.tanh, "relu": lambda z: z * (z.real > 0), "sigmoid": lambda z: 1 / (1 + np.exp(-z))}


def run_by_the_equations(inputs, weights, activation):
    """Hochreiter & Schmidhuber (1997), Gers et al. (2000): inputs [B, T, features] -> the last h [B, hidden]."""
    W, U, b = weights  # [4 hidden, features], [4 hidden, hidden], [4 hidden], each i, f, g, o
    act, sigmoid = ACTIVATE[activation], ACTIVATE["sigmoid"]
    h = c = np.zeros((len(inputs), U.shape[1]))
    for t in range(inputs.shape[1]):
        i, f, g, o = np.split(inputs[:, t] @ W.T + h @ U.T + b, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * act(g)
        h = sigmoid(o) * act(c)
    return h


def build(activation, features=2, hidden=3, num_layers=1):
    torch.manual_seed(0)
    stack = LstmStack(features, hidden, num_layers, activation, 0.0).double()
    with torch.no_grad():
        stack.bias_ih_l0.normal_()
    return stack


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_and_gradient_are_those_of_the_equations(activation):
    stack, inputs = build(activation), torch.randn(3, 5, 2, dtype=torch.float64)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")
    weights = [getattr(stack, name).detach().numpy().astype(complex) for name in names]
    share = np.linspace(0.5, 1.5, 9).reshape(3, 3)  # a loss that treats each output differently
    state = stack.last_state(inputs)
    (state * torch.from_numpy(share)).sum().backward()
    np.testing.assert_allclose(state.detach(), run_by_the_equations(inputs.numpy(), weights, activation).real, atol=1e-12)
    for name, values in zip(names, weights, strict=True):
        for place in np.ndindex(values.shape):
            values[place] += 1e-30j  # the complex step: a derivative without cancellation (Squire & Trapp, 1998)
            slope = (run_by_the_equations(inputs.numpy(), weights, activation) * share).sum().imag / 1e-30
            values[place] -= 1e-30j
            assert float(getattr(stack, name).grad[place]) == pytest.approx(slope, abs=1e-12, rel=1e-12)


def test_the_inputs_gradient_is_right_through_two_layers():
    stack = build("relu", num_layers=2)
    inputs = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(stack.last_state, inputs)


def test_tanh_is_torchs_own():
    ours, theirs = build("tanh", num_layers=2), nn.LSTM(2, 3, 2, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(4, 6, 2, dtype=torch.float64)
    torch.testing.assert_close(ours.last_state(inputs), theirs(inputs)[0][:, -1], rtol=0, atol=0)
    gates = nn.functional.linear(inputs.transpose(0, 1), ours.weight_ih_l0, ours.bias_ih_l0)
    # the path of the other activations, with this one
    one = nn.LSTM(2, 3, batch_first=True).double()
    one.load_state_dict({name: value for name, value in ours.state_dict().items() if name.endswith("_l0")})
    torch.testing.assert_close(
        Recurrence.apply(gates, ours.weight_hh_l0, "tanh").transpose(0, 1), one(inputs)[0], rtol=0, atol=1e-14
    )


def choose_kind(kind, monkeypatch):
    if compiled.load_library() is None:
        pytest.skip("the compiled code was not built: pip found no C compiler")
    library = ctypes.CDLL(str(next(Path(compiled.__file__).parent.glob("_native*"))))
    if kind == "avx2" and not library.has_avx2():
        pytest.skip("this processor has no AVX2")
    chosen = compiled.choose_kind(library, kind)
    monkeypatch.setattr(cell, "load_library", lambda: chosen)


@pytest.mark.parametrize("kind", ["any", "avx2"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("windows", "length", "features", "hidden", "num_layers"),
    [(7, 24, 3, 50, 2), (32, 5, 48, 64, 1), (1, 1, 1, 1, 1), (14, 2, 2, 13, 3), (5, 9, 1, 8, 1)],
)
def test_compiled_steps_are_those_of_torch(kind, activation, windows, length, features, hidden, num_layers, monkeypatch):
    """States and every gradient, in float32 beside the cell in float64, which the equations were tried on above."""
    choose_kind(kind, monkeypatch)
    torch.manual_seed(0)
    ours = LstmStack(features, hidden, num_layers, activation, 0.0)
    exact = LstmStack(features, hidden, num_layers, activation, 0.0).double()
    for name, weights in ours.named_parameters():
        weights.data += 0.1 * torch.randn_like(weights) if "bias_hh" not in name else 0.0
    exact.load_state_dict(ours.state_dict())
    inputs, share = torch.randn(windows, length, features, requires_grad=True), torch.randn(windows, hidden)
    same = inputs.detach().double().requires_grad_()
    assert isinstance(cell.choose_way(inputs, activation), partial), "compiled"
    assert not isinstance(cell.choose_way(same, activation), partial)
    state, expected = ours.last_state(inputs), exact.last_state(same)
    (state * share).sum().backward()
    (expected * share).sum().backward()
    torch.testing.assert_close(state.double(), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(inputs.grad.double(), same.grad, rtol=1e-5, atol=1e-5)
    for name, weights in ours.named_parameters():
        if weights.requires_grad:
            found, right = weights.grad.double(), getattr(exact, name).grad
            torch.testing.assert_close(found, right, rtol=0, atol=1e-5 * float(right.abs().max()) + 1e-9, msg=name)
    with torch.inference_mode():
        torch.testing.assert_close(ours.last_state(inputs), state, rtol=0, atol=0)


def test_what_compiled_code_cannot_do_goes_to_torch():
    stack = LstmStack(2, 3, 2, "tanh", 0.5)
    assert stack.last_state(torch.empty(0, 4, 2)).shape == (0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert cell.choose_way(torch.zeros(1, 4, 2), "tanh") is None
    assert cell.choose_way(torch.zeros(1, 4, 2, dtype=torch.float64), "tanh") is None
    assert cell.choose_way(torch.zeros(1, 4, 2, dtype=torch.float64), "relu") is cell.run_by_torch


def test_a_gradient_may_be_asked_for_twice():
    stack, inputs = LstmStack(2, 9, 1, "tanh", 0.0), torch.randn(4, 6, 2)
    loss = stack.last_state(inputs).sum()
    loss.backward(retain_graph=True)
    once = stack.weight_hh_l0.grad.clone()
    loss.backward()
    torch.testing.assert_close(stack.weight_hh_l0.grad, 2 * once, rtol=0, atol=0)


def test_dropout_lies_between_the_layers_while_it_learns():
    stack, inputs = LstmStack(2, 50, 2, "tanh", 0.5), torch.randn(4, 6, 2)
    assert not torch.equal(stack.last_state(inputs), stack.last_state(inputs))
    stack.eval()
    assert torch.equal(stack.last_state(inputs), stack.last_state(inputs))


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_without_gradient_it_says_the_same(activation):
    stack, inputs = build(activation, num_layers=2), torch.randn(4, 6, 2, dtype=torch.float64)
    expected = stack.last_state(inputs)
    with torch.inference_mode():
        torch.testing.assert_close(stack.last_state(inputs), expected, rtol=0, atol=1e-14)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_with_the_same_weights_it_is_the_lstm_of_keras(activation):
    os.environ["KERAS_BACKEND"] = "torch"
    keras = pytest.importorskip("keras", reason="the extra engram[keras] is not installed")
    layer = keras.layers.LSTM(50, activation=activation)
    inputs = np.random.default_rng(0).standard_normal((8, 12, 1)).astype(np.float32)
    layer.build(inputs.shape)
    stack = LstmStack(1, 50, 1, activation, 0.0)
    kernel, recurrent, bias = (torch.tensor(np.asarray(weights)) for weights in layer.get_weights())
    with torch.no_grad():  # Keras' gates lie as ours, i, f, c, o; its matrices are transposed
        stack.weight_ih_l0.copy_(kernel.T)
        stack.weight_hh_l0.copy_(recurrent.T)
        stack.bias_ih_l0.copy_(bias)
        theirs = np.asarray(layer(inputs).cpu())
        np.testing.assert_allclose(stack.last_state(torch.from_numpy(inputs)), theirs, atol=1e-5)
