"""What a chunk keeps comes back bit for bit, and what is damaged is noticed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.datasets.chunks import ABSENT, NULL, STEPS_PER_CHUNK, decode, encode, is_absent, make_absent
from app.errors import InternalError

finite = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.integers(-(10**9), 10**9).map(lambda number: number / 100)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found.view(np.uint64), expected.view(np.uint64))


@st.composite
def chunks(draw: st.DrawFn) -> np.ndarray:
    """A few chunks with runs of doubles or decimals, holes of both kinds, and the doubles that are hard to keep."""
    values = make_absent(draw(st.integers(1, 3)))
    for row in values:
        start = draw(st.integers(0, STEPS_PER_CHUNK - 1))
        kind = draw(
            st.sampled_from([finite, decimals, st.sampled_from([0.0, -0.0, 5e-324, 1.7e308, 2.0**53, -(2.0**53) + 1, 0.1])])
        )
        run = draw(arrays.arrays(np.float64, st.integers(0, STEPS_PER_CHUNK - start), elements=kind))
        row[start : start + len(run)] = run
        for hole in (NULL, ABSENT):
            row[draw(st.lists(st.integers(0, STEPS_PER_CHUNK - 1), max_size=5))] = hole
    return values


@given(chunks())
def test_every_double_null_and_absence_comes_back(values: np.ndarray) -> None:
    assert_same_bits(decode(encode(values)), values)


def test_more_chunks_than_are_encoded_at_once_keep_their_order() -> None:
    values = np.random.default_rng(0).normal(size=(600, STEPS_PER_CHUNK))
    assert_same_bits(decode(encode(values)), values)


def test_chunks_are_encoded_with_those_that_hold_the_same_steps() -> None:
    """The first and the last of each of many series in turn, and one of another range among them."""
    values = make_absent(401)
    values[0::2, 100:], values[1::2, :500] = np.arange(STEPS_PER_CHUNK - 100), np.arange(500) / 4
    values[200] = values[200, ::-1].copy()
    encoded = encode(values)
    assert_same_bits(decode(encoded), values)
    assert encoded[0] == encode(values[:1])[0]
    assert encoded[1] == encode(values[1:2])[0]
    assert encoded[200] == encode(values[200:201])[0]


def test_hourly_two_decimal_values_take_less_than_three_bytes_each() -> None:
    hours = np.arange(100 * STEPS_PER_CHUNK).reshape(100, -1)
    noise = np.random.default_rng(0).normal(0, 5, hours.shape)
    values = np.round(100 + 20 * np.sin(hours * 2 * np.pi / 24) + noise, 2)
    assert sum(map(len, encode(values))) / values.size < 3


def test_null_and_absent_are_both_missing_and_told_apart() -> None:
    assert np.isnan([NULL, ABSENT]).all()
    assert is_absent(np.array([NULL, ABSENT, 1.0])).tolist() == [False, True, False]


def test_damaged_bytes_are_noticed() -> None:
    whole = encode(np.random.default_rng(0).normal(size=(1, STEPS_PER_CHUNK)))[0]
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (bytes(flipped), whole[: len(whole) // 2], bytes([9]) + whole[1:]):
        with pytest.raises(InternalError):
            decode([damaged])
