"""What every request passes before any route."""

import gzip

import pytest
import zstandard

from app.errors import BadRequest, BodyTooLarge, UnsupportedMediaType
from app.middleware import decompress
from tests.conftest import Client

PLAIN = b"series,timestamp,value\n" * 1000


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_members_and_frames_end_to_end_are_one_body(encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zstandard.compress
    assert decompress(pack(PLAIN) + pack(PLAIN), encoding, len(PLAIN) * 2) == PLAIN * 2


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("keep", [5, 40, -1])
def test_a_body_that_ends_too_early_is_refused(encoding: str, keep: int) -> None:
    packed = (gzip.compress if encoding == "gzip" else zstandard.compress)(PLAIN)
    with pytest.raises(BadRequest, match=encoding):
        decompress(packed[:keep], encoding, 10**6)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_refused_at_the_limit(encoding: str) -> None:
    bomb = (gzip.compress if encoding == "gzip" else zstandard.compress)(bytes(200_000_000))
    assert len(bomb) < 250_000
    with pytest.raises(BodyTooLarge):
        decompress(bomb, encoding, 10**6)


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(UnsupportedMediaType, match="'br'"):
        decompress(b"", "br", 10)


def test_every_answer_carries_the_request_id(client: Client) -> None:
    assert client.get("/v1/nowhere", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert len(client.get("/v1/nowhere", headers={"X-Request-ID": "a b"}).headers["x-request-id"]) == 32


def test_an_unknown_path_is_a_problem(client: Client) -> None:
    answer = client.get("/v1/nowhere")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/not-found"
    assert problem["instance"] == "/v1/nowhere"
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_what_nobody_caught_is_a_500_that_says_only_its_request_id(client: Client) -> None:
    @client.app.get("/broken")
    def fail() -> None:
        raise ValueError("the secret")

    answer = client.get("/broken")
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")
    assert "secret" not in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_a_method_that_is_not_taken_is_told_all_that_are(client: Client) -> None:
    answer = client.request("OPTIONS", "/v1/datasets/air")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, PATCH, PUT")
    assert "it takes DELETE, GET, PATCH, PUT" in answer.json()["detail"]
