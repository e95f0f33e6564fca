"""Real bodies of every kind, and ways to damage them: what the fuzzer feeds the parsers with. The same number gives the same bytes."""

import gzip
import io
import random
from collections.abc import Callable
from pathlib import Path

import orjson
import polars as pl
import zstandard

AIR = (Path(__file__).parent.parent / "examples" / "air_passengers.csv").read_bytes()
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
NUMBERS = [
    b"1e309",
    b"-1e309",
    b"NaN",
    b"9" * 400,
    b"-0",
    b"0x1",
    b"1e-999",
    b"null",
    b"true",
    b'""',
    b"[]",
    b"{}",
    b"\xff\xfe",
    b"\x00",
]
MAX_BYTES = 65_536


def make_samples() -> dict[str, list[bytes]]:
    """{kind: whole bodies}: small, so that many fit into a minute, and each with another feature of its format."""
    frames = [_make_frame(), _make_frame().with_columns(pl.col("series").cast(pl.Categorical), pl.col("timestamp").dt.date())]
    frames.append(pl.DataFrame({"timestamp": range(50), "value": [1, None] * 25}))
    frames.append(
        _make_frame().with_columns(pl.col("timestamp").dt.replace_time_zone("Europe/Berlin"), pl.col("value").cast(pl.Float32))
    )
    rows = [{"series": "a", "timestamp": f"2024-01-{day:02}", "value": day / 3} for day in range(1, 29)]
    compact = {
        "series": [{"id": name, "start": "2024-01-01T00:00:00Z", "freq": "h", "values": [1.5, None, -3e7] * 9} for name in "ab"]
    }
    csvs = [
        b"\n".join(AIR.split(b"\n")[:40]),
        b'series,timestamp,value\r\n"a ""x""",2024-01-01T00:00:00+02:00,1\r\n"b\n",2024-01-02,\r\n',
    ]
    csvs += [
        b"ds,y,unique_id\n2024-01-01 06:00,1e3,\xc3\xa4\n2024-01-02 06:00,-2.5,\xc3\xb6\n",
        b"time,target\n1,2\n2,3\n3,4\n",
    ]
    text = b"".join(csvs)
    return {
        "csv": csvs,
        "ndjson": [b"\n".join(map(orjson.dumps, rows)), b'{"timestamp": 1, "value": null}\n\n{"timestamp": 2, "value": 3}'],
        "json": [orjson.dumps({"observations": rows}), orjson.dumps(compact)],
        "parquet": [_to_parquet(frame, how) for frame in frames for how in ("uncompressed", "snappy", "zstd", "gzip")],
        "arrow": [_to_arrow(frame, how) for frame in frames for how in ("uncompressed", "lz4", "zstd")],
        "gzip": [gzip.compress(text), gzip.compress(text) + gzip.compress(b"1"), gzip.compress(bytes(10**6))],
        "zstd": [
            zstandard.compress(text),
            zstandard.compress(text, 19) + zstandard.compress(b"1"),
            zstandard.compress(bytes(10**6)),
        ],
    }


def _make_frame() -> pl.DataFrame:
    hours = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 3), "1h", eager=True)
    return pl.DataFrame(
        {"series": ["a", "b"] * (len(hours) // 2) + ["c"], "timestamp": hours, "value": [1.5, None] * 24 + [2.0]}
    )


def _to_parquet(frame: pl.DataFrame, how: str) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression=how, row_group_size=20)  # type: ignore[arg-type]
    return buffer.getvalue()


def _to_arrow(frame: pl.DataFrame, how: str) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer, compression=how)  # type: ignore[arg-type]
    return buffer.getvalue()


def mutate(samples: list[bytes], number: int) -> bytes:
    """The sample and the damages that `number` stands for: one to six of them."""
    dice = random.Random(number)
    body = bytearray(dice.choice(samples))
    for _ in range(dice.choice((1, 1, 2, 3, 6))):
        dice.choice(WAYS)(body, dice, samples)
    return bytes(body[:MAX_BYTES])


def _flip(body: bytearray, dice: random.Random, _: list[bytes]) -> None:
    if body:
        body[dice.randrange(len(body))] ^= 1 << dice.randrange(8)


def _overwrite(body: bytearray, dice: random.Random, _: list[bytes]) -> None:
    if body:
        at, size = dice.randrange(len(body)), dice.choice((1, 2, 4, 8))
        body[at : at + size] = (dice.choice(INTERESTING) & (2 ** (8 * size) - 1)).to_bytes(size, dice.choice(("big", "little")))


def _cut(body: bytearray, dice: random.Random, _: list[bytes]) -> None:
    if body:
        at = dice.randrange(len(body))
        del body[at : at + dice.choice((1, 2, 8, 64, len(body)))]


def _repeat(body: bytearray, dice: random.Random, _: list[bytes]) -> None:
    if body:
        at = dice.randrange(len(body))
        body[at:at] = body[at : at + dice.choice((1, 4, 32, 256))] * dice.choice((1, 2, 50))


def _insert(body: bytearray, dice: random.Random, _: list[bytes]) -> None:
    at = dice.randrange(len(body) + 1)
    body[at:at] = dice.choice(
        (dice.randbytes(dice.choice((1, 4, 30))), dice.choice(NUMBERS), dice.choice((b",", b'"', b"\n", b"\\", b"[", b"{")) * 9)
    )


def _splice(body: bytearray, dice: random.Random, samples: list[bytes]) -> None:
    other = dice.choice(samples)
    if body and other:
        at = dice.randrange(len(body))
        body[at:] = other[dice.randrange(len(other)) :]


WAYS: list[Callable[[bytearray, random.Random, list[bytes]], None]] = [
    _flip,
    _flip,
    _overwrite,
    _overwrite,
    _cut,
    _repeat,
    _insert,
    _splice,
]
