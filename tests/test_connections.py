"""The server itself, on a socket: heads that are too large, too slow or meant to be read in two ways, and clients that take nothing."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvicorn

import migrations
from app.connections import Gathering, make_protocol
from app.database import Database
from app.main import create_app
from app.settings import Settings

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    folder: Path = tmp_path_factory.mktemp("live")
    settings = Settings(
        data_dir=folder,
        max_head_bytes=4096,
        max_head_seconds=1.0,
        max_silence_seconds=1.0,
        max_body_seconds=3.0,
        max_connections=8,
    )
    database = Database(settings.database_url)
    migrations.upgrade(database)
    database.close()
    app = create_app(settings)

    @app.get("/long", include_in_schema=False)
    def answer_at_length() -> dict[str, str]:
        return {"long": "x" * 50_000_000}

    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, http=make_protocol(settings), ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[:2]
    server.should_exit = True
    thread.join(10)


def say(address: tuple[str, int], *parts: bytes, pause: float = 0.0) -> bytes:
    """What comes back until the server closes, or is silent for five seconds."""
    with socket.create_connection(address, timeout=5) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(pause)
        heard = b""
        try:
            while data := client.recv(65_536):
                heard += data
        except (TimeoutError, ConnectionResetError):
            pass
        return heard


def test_a_head_that_is_too_large_is_refused_wherever_it_is_large(address: tuple[str, int]) -> None:
    for head in (
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        GET + b"X-Long: " + b"a" * 5000 + b"\r\n\r\n",
        GET + b"".join(b"X-%d: a\r\n" % number for number in range(1000)) + b"\r\n",
        GET + b"X-Endless: " + b"a" * 20_000,
    ):
        heard = say(address, head)
        assert heard.startswith(b"HTTP/1.1 431 "), heard[:200]
        assert b"/problems/head-too-large" in heard
        assert heard.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("begun", [b"", b"GET /health", GET, b"\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(address: tuple[str, int], begun: bytes) -> None:
    began = time.monotonic()
    heard = say(address, begun)
    assert heard.startswith(b"HTTP/1.1 408 "), heard[:200]
    assert 0.9 < time.monotonic() - began < 4


def test_drops_of_a_head_do_not_keep_a_connection_open(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=5) as client:
        began = time.monotonic()
        try:
            while time.monotonic() - began < 10:
                client.sendall(b"GET"[:1] if time.monotonic() == began else b"X")
                time.sleep(0.2)
        except OSError:
            pass
        assert time.monotonic() - began < 5


def test_a_body_that_stops_is_answered_408(address: tuple[str, int]) -> None:
    head = (
        b"POST /v1/datasets/a/observations HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 100\r\n\r\n"
    )
    heard = say(address, head + b"timestamp,value\n")
    assert heard.startswith(b"HTTP/1.1 408 "), heard[:200]
    assert b"/problems/request-timeout" in heard


def test_who_takes_nothing_of_a_long_answer_is_cut_off(address: tuple[str, int]) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(address)
        client.sendall(
            b"GET /long HTTP/1.1\r\nHost: localhost\r\nAuthorization: none\r\n\r\n".replace(b"Authorization: none\r\n", b"")
        )
        time.sleep(4)
        client.settimeout(5)
        taken = 0
        try:
            while data := client.recv(2**20):
                taken += len(data)
        except OSError:
            pass
    assert 0 < taken < 50_000_000


def test_connections_have_a_limit_and_those_that_end_make_room(address: tuple[str, int]) -> None:
    held = [socket.create_connection(address) for _ in range(8)]
    time.sleep(0.3)
    heard = say(address)
    assert heard.startswith(b"HTTP/1.1 503 "), heard[:200]
    assert b"retry-after: 5" in heard
    assert b"too-many-connections" in heard
    for client in held:
        client.close()
    time.sleep(0.3)
    assert say(address, GET + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "tail",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"Content-Length: +5\r\n\r\nhello",
        b"Content-Length: 5, 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"X-Folded: a\r\n b\r\nContent-Length : 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5;a=\x00b\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
    ],
)
def test_what_two_servers_would_read_in_two_ways_is_refused(address: tuple[str, int], tail: bytes) -> None:
    head = b"POST /v1/datasets/a/observations HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
    heard = say(address, head + tail)
    assert heard.startswith(b"HTTP/1.1 400 "), heard[:300]
    assert heard.count(b"HTTP/1.1 ") == 1
    assert b"smuggled" not in heard


class Recorder:
    """What a transport was asked to do."""

    def __init__(self) -> None:
        self.done: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.done.append(b"".join(parts))

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done

    def get_extra_info(self, name: str) -> str:
        return name


def test_head_and_body_go_out_together_and_a_head_alone_with_the_turn_of_the_loop() -> None:
    async def run() -> list[bytes | str]:
        recorder = Recorder()
        transport = Gathering(recorder, asyncio.get_running_loop())
        for body in (b"one", b"two"):
            transport.write(b"head ")
            transport.write(body)
        transport.write(b"head of a stream")
        assert recorder.done == [b"head one", b"head two"]
        await asyncio.sleep(0)
        assert recorder.done[2:] == [b"head of a stream"]
        await asyncio.sleep(0)
        transport.write(b"first event")
        await asyncio.sleep(0)
        transport.write(b"last words")
        transport.close()
        await asyncio.sleep(0)
        assert transport.is_closing()
        assert transport.get_extra_info("peername") == "peername"
        return recorder.done[3:]

    with ThreadPoolExecutor(1) as pool:  # a thread of its own: a browser may leave its loop in this one
        assert pool.submit(asyncio.run, run()).result() == [b"first event", b"last words", "closed"]
