"""The codec of chunks: 1,024 dense float64 of one series <-> a few bytes. DESIGN decision 6.

In memory a chunk is one row of a float64 array [K, 1024] that carries three states: a finite value, NULL (a missing value that
was sent) and ABSENT (never sent). Both of the latter are NaN, so arithmetic sees them as missing; their bits tell them apart.

    byte 0      version, 1
    byte 1      form: 0 the doubles themselves, their bytes shuffled; 1 decimals
    bytes 2..5  first and count of the steps that are kept; all others are absent
    then        one zstd frame with its own checksum
    last 4      crc32 of all before (older chunks end with their frame; older code reads what has more)

Form 1 is chosen when every value is exactly a whole number divided by one power of ten: those whole numbers are kept as
differences, which of hourly two-decimal values takes 2 bytes a point in place of 6. Either form gives back the same bits.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from app.errors import ObservationsCorrupt

Floats = NDArray[np.float64]

STEPS_PER_CHUNK = 1024
STEP_BITS = 10
VERSION = 1
DOUBLES, DECIMALS = 0, 1
NULL_BITS, ABSENT_BITS = 0x7FF8_0000_0000_0000, 0x7FF8_0000_0000_0A85
NULL, ABSENT = np.array([NULL_BITS, ABSENT_BITS], np.uint64).view(np.float64)
MAX_DIGITS = 6
PROBED = 16
"""Values that tell of most numbers of digits that they are too few, before all of a row are looked at."""
EXACT = 2.0**53
HEAD = struct.Struct("<BBHH")
"""Version, form, first kept step, count of kept steps."""
CHECK = struct.Struct("<I")
DECIMALS_HEAD = struct.Struct("<BB?q")
"""Digits, bytes per difference, whether a value is missing, the first whole number."""
ZSTD_LEVEL = 3
FEW_ALIKE = 16
"""So few chunks of one range are rather encoded along with others, padded, than by themselves."""
ENCODED_AT_ONCE = 256
"""Chunks whose work arrays stay in the processor's cache."""


def make_absent(count: int) -> Floats:
    """[count, 1024] of ABSENT."""
    return np.full((count, STEPS_PER_CHUNK), ABSENT_BITS, np.uint64).view(np.float64)


def is_absent(values: Floats) -> NDArray[np.bool_]:
    absent: NDArray[np.bool_] = values.view(np.uint64) == ABSENT_BITS
    return absent


def encode(values: Floats) -> list[bytes]:
    """One bytes object for each row of values [K, 1024]."""
    encoded = [b""] * len(values)
    for rows in _find_alike(values):
        for start in range(0, len(rows), ENCODED_AT_ONCE):
            some = rows[start : start + ENCODED_AT_ONCE]
            for row, data in zip(some.tolist(), _encode_some(values[some]), strict=True):
                encoded[row] = data
    return encoded


def _find_alike(values: Floats) -> list[NDArray[np.int64]]:
    """The rows in groups that hold the same range of steps, as the first and the last chunks of many series do; those few of a kind in one
    group, whose range is that of all."""
    if len(values) < FEW_ALIKE:
        return [np.arange(len(values))]
    kept = ~is_absent(values)  # [K, 1024]
    firsts, lasts = np.argmax(kept, axis=1), STEPS_PER_CHUNK - 1 - np.argmax(kept[:, ::-1], axis=1)
    ranges = firsts * STEPS_PER_CHUNK + lasts
    order = np.argsort(ranges, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(ranges[order])) + 1)
    few = [group for group in groups if len(group) < FEW_ALIKE]
    return [group for group in groups if len(group) >= FEW_ALIKE] + ([np.concatenate(few)] if few else [])


def decode(encoded: Sequence[bytes], out: Floats | None = None) -> Floats:
    """[K, 1024] of what `encode` took, bit for bit, into `out` (all absent) if given. Raises ObservationsCorrupt, with the `row` of the
    damaged bytes."""
    values = make_absent(len(encoded)) if out is None else out
    decompressor = zstandard.ZstdDecompressor()
    for row, data in enumerate(encoded):
        try:
            frame = _check(data)
            _, form, first, count = HEAD.unpack_from(data)
            plain = decompressor.decompress(frame)
            values[row, first : first + count] = _unshuffle(plain, "<f8") if form == DOUBLES else _from_decimals(plain, count)
        except (ValueError, struct.error, zstandard.ZstdError) as error:
            raise ObservationsCorrupt(f"a stored chunk is damaged: {error}", row=row) from error
    return values


def _check(data: bytes) -> bytes:
    """The frame of a chunk that is as it was stored; raises ValueError."""
    if data[:1] != bytes([VERSION]):
        raise ValueError(f"its codec version is {data[:1].hex() or 'missing'}, this release reads {VERSION:02x}")
    if len(data) > HEAD.size + CHECK.size and CHECK.unpack_from(data, len(data) - CHECK.size)[0] == zlib.crc32(
        data[: -CHECK.size]
    ):
        return data[HEAD.size : -CHECK.size]
    frame = zstandard.ZstdDecompressor().decompressobj()
    frame.decompress(data[HEAD.size :])
    if not frame.eof or frame.unused_data:
        raise ValueError("its checksum is not the one it was stored with")
    return data[HEAD.size :]


def _encode_some(values: Floats) -> list[bytes]:
    kept = np.flatnonzero(~np.all(is_absent(values), axis=0))
    start, end = (int(kept[0]), int(kept[-1]) + 1) if len(kept) else (0, 1)
    values = np.ascontiguousarray(values[:, start:end])
    missing, absent = np.isnan(values), is_absent(values)
    digits, numbers = _to_decimals(values, missing)
    differences = np.diff(numbers, axis=1, prepend=numbers[:, :1])
    widths, any_missing = _widths(differences), np.logical_or.reduce(missing, axis=1)
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    encoded = []
    for row in range(len(values)):
        if digits[row] < 0:
            form, plain = DOUBLES, _shuffle(values[row])
        else:
            form, width = DECIMALS, int(widths[row])
            plain = DECIMALS_HEAD.pack(int(digits[row]), width, bool(any_missing[row]), int(numbers[row, 0]))
            if any_missing[row]:
                plain += np.packbits(missing[row]).tobytes() + np.packbits(absent[row]).tobytes()
            plain += _shuffle(differences[row].astype(f"<i{width}"))
        stored = HEAD.pack(VERSION, form, start, end - start) + compressor.compress(plain)
        encoded.append(stored + CHECK.pack(zlib.crc32(stored)))
    return encoded


def _to_decimals(values: Floats, missing: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(digits [K], whole numbers): value = number / 10**digits exactly, missing ones repeat the number before; digits
    is -1 where no number of digits does it."""
    digits = np.full(len(values), -1)
    numbers = np.zeros(values.shape, np.int64)
    open_rows = np.flatnonzero(~((values == 0) & np.signbit(values)).any(1))
    for places in range(MAX_DIGITS + 1):
        power = 10.0**places
        likely = open_rows[_scale(values[open_rows, :PROBED], missing[open_rows, :PROBED], power)[1]]
        if not len(likely):
            continue
        scaled, fits = _scale(values[likely], missing[likely], power)
        rows = likely[fits]
        digits[rows] = places
        numbers[rows] = np.where(missing[rows], 0.0, scaled[fits]).astype(np.int64)
        open_rows = open_rows[digits[open_rows] < 0]
        if not len(open_rows):
            break
    if not missing.any():
        return digits, numbers
    present = np.where(missing, -1, np.arange(values.shape[1]))
    before = np.maximum.accumulate(present, axis=1)
    first = np.argmax(~missing, axis=1)[:, None]
    return digits, np.take_along_axis(numbers, np.where(before < 0, first, before), axis=1)


def _scale(values: Floats, missing: NDArray[np.bool_], power: float) -> tuple[Floats, NDArray[np.bool_]]:
    """(whole numbers [K, N], whether each row's values that are not missing are exactly these over `power`)."""
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.rint(values * power)
        exact = ((scaled / power == values) & (np.abs(scaled) < EXACT)) | missing
    return scaled, exact.all(1)


def _from_decimals(plain: bytes, count: int) -> Floats:
    digits, width, any_missing, first = DECIMALS_HEAD.unpack_from(plain)
    mask_bytes = -(-count // 8) if any_missing else 0
    numbers = first + np.cumsum(_unshuffle(plain[DECIMALS_HEAD.size + 2 * mask_bytes :], f"<i{width}"), dtype=np.int64)
    values: Floats = numbers / 10.0**digits
    if any_missing:
        masks = np.frombuffer(plain, np.uint8, 2 * mask_bytes, DECIMALS_HEAD.size).reshape(2, mask_bytes)
        missing, absent = np.unpackbits(masks, axis=1, count=count).view(np.bool_)
        values[missing] = NULL
        values[absent] = ABSENT
    return values


def _widths(differences: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bytes that hold each row's differences: 1, 2, 4 or 8."""
    largest = np.abs(differences).max(axis=1, initial=0)
    widths: NDArray[np.int64] = np.array([1, 2, 4, 8])[np.searchsorted([2**7, 2**15, 2**31], largest, side="right")]
    return widths


def _shuffle(numbers: NDArray[Any]) -> bytes:
    """Byte 0 of all, then byte 1 of all, ...: like stands beside like, which zstd rewards."""
    return numbers.view(np.uint8).reshape(-1, numbers.itemsize).T.tobytes()


def _unshuffle(data: bytes, dtype: str) -> NDArray[Any]:
    width = np.dtype(dtype).itemsize
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(width, -1).T).view(dtype).reshape(-1)
