"""Hints: they arrive at a real worker, and a broker that is away costs the sender nothing."""

import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import redis
from kombu import Connection

from app import queue
from app.queue import Queue, broker_reachable
from app.settings import Settings

ROOT = Path(__file__).parents[1]
WORKER = """
import sys
from app.queue import TRAIN_TASK, WORKER_OPTIONS, make_celery
from app.settings import Settings
url, device = sys.argv[1:]
stdout = sys.stdout  # Celery puts its log in place of it
celery = make_celery(Settings(broker_url=url))
@celery.task(name=TRAIN_TASK)
def train(training_id):
    print(training_id, file=stdout, flush=True)
celery.Worker(concurrency=1, queues=[device], **WORKER_OPTIONS).start()
"""


class Gate:
    """A TCP proxy in front of a server: while it is shut, the server is away and its connections are broken."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.open()

    def open(self) -> None:
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
        self._shut = threading.Event()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def shut(self) -> None:
        self._shut.set()
        self._thread.join()
        self._listener.close()

    def _carry(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._shut.is_set():
                for key, _ in selector.select(0.05):
                    if key.fileobj is self._listener:
                        here, there = self._listener.accept()[0], socket.create_connection(self._target)
                        selector.register(here, selectors.EVENT_READ, there)
                        selector.register(there, selectors.EVENT_READ, here)
                    elif data := key.fileobj.recv(65536):  # type: ignore[union-attr]
                        key.data.sendall(data)
                    else:
                        for end in (key.fileobj, key.data):
                            selector.unregister(end)
                            end.close()  # type: ignore[union-attr]
                        break  # the other events may be of a connection that has just been closed
            for key in list(selector.get_map().values()):
                if key.fileobj is not self._listener:
                    key.fileobj.close()  # type: ignore[union-attr]


@pytest.fixture
def device(redis_url: str) -> Iterator[str]:
    """A queue name of the test's own."""
    name = f"test-{uuid4().hex}"
    yield name
    with redis.Redis.from_url(redis_url) as client:
        client.delete(name, *client.keys(f"_kombu.*.{name}"))


@pytest.fixture(params=["embedded", "redis"])
def broker_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "embedded":
        return Settings(data_dir=tmp_path).broker_url
    return str(request.getfixturevalue("redis_url"))


def read_lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    patience = threading.Timer(30, process.kill)  # a hint that was lost must fail the test, not hang it
    patience.start()
    try:
        return [process.stdout.readline().strip() for _ in range(count)]
    finally:
        patience.cancel()


def test_hints_arrive_at_a_worker_in_order(broker_url: str, device: str) -> None:
    hints = Queue(Settings(broker_url=broker_url))
    hints.send("sent before the worker started", device)
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, broker_url, device], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as worker:
        try:
            assert read_lines(worker, 1) == ["sent before the worker started"]
            for number in range(5):
                hints.send(str(number), device)
            assert read_lines(worker, 5) == ["0", "1", "2", "3", "4"]
        finally:
            worker.terminate()
            _, errors = worker.communicate(timeout=30)
    hints.close()
    assert worker.returncode == 0
    assert "Traceback" not in errors
    assert "Deprecat" not in errors


def test_a_queue_that_closed_leaves_the_next_one_working(redis_url: str, device: str) -> None:
    with redis.Redis.from_url(redis_url) as server:
        for number in range(3):
            hints = Queue(Settings(broker_url=redis_url))
            hints.send(str(number), device)
            deadline = time.monotonic() + 20
            while server.llen(device) == number and time.monotonic() < deadline:
                time.sleep(0.01)
            hints.close()
            assert server.llen(device) == number + 1


def test_a_queue_that_nobody_hears_does_not_grow_for_ever(
    broker_url: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_WAITING_BELLS", 3)
    # a timeout of its own, and so connections of its own: kombu shares them by options, and another test has closed its
    hints = Queue(Settings(broker_url=broker_url, broker_timeout_seconds=1.5))
    with Connection(broker_url) as connection:
        waiting = connection.default_channel
        for number in range(5):
            hints.send(str(number), device)
        for number in range(20):
            hints.send(str(number), device, again=True)
        hints.send("last", device)
        wait_until_sent(hints)
        assert waiting.queue_declare(queue=device).message_count == 6, "a first hint is always sent"
        waiting.queue_purge(device)
        hints.send("0", device, again=True)
        wait_until_sent(hints)
        assert waiting.queue_declare(queue=device).message_count == 1
    hints.close()


def wait_until_sent(hints: Queue) -> None:
    deadline = time.monotonic() + 20
    while not hints._waiting.empty() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # the last one has been taken, and may be on its way


def test_sending_works_again_after_an_outage(redis_url: str, device: str) -> None:
    server = urlsplit(redis_url)
    gate = Gate(server.hostname or "127.0.0.1", server.port or 6379)
    settings = Settings(broker_url=server._replace(netloc=f"127.0.0.1:{gate.port}").geturl())
    hints = Queue(settings)
    try:
        with redis.Redis.from_url(redis_url) as client:
            hints.send("before", device)
            wait_for_length(client, device, 1)
            gate.shut()
            assert not broker_reachable(settings)
            hints.send("during", device)
            time.sleep(0.3)
            gate.open()
            assert broker_reachable(settings)
            hints.send("after", device)
            wait_for_length(client, device, 2)
            gate.shut()  # a short one, which nobody saw: the connection that is kept is dead
            gate.open()
            hints.send("after", device)
            wait_for_length(client, device, 3)
    finally:
        hints.close()
        gate.shut()


def wait_for_length(client: "redis.Redis", name: str, length: int) -> None:
    deadline = time.monotonic() + 5
    while client.llen(name) != length:
        assert time.monotonic() < deadline, f"expected {length} hints, found {client.llen(name)}"
        time.sleep(0.01)


@pytest.fixture(params=["redis refuses", "file cannot be written"])
def away(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "redis refuses":
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        return Settings(broker_url=f"redis://127.0.0.1:{port}/0")
    (tmp_path / "file").write_text("in the way")
    return Settings(data_dir=tmp_path / "file")


def test_a_broker_that_is_away_costs_the_sender_nothing(away: Settings) -> None:
    assert not broker_reachable(away)
    hints = Queue(away)
    started = time.monotonic()
    for number in range(50):
        hints.send(str(number), "auto")
    assert time.monotonic() - started < 0.5
    hints.close()


def test_a_broker_that_is_silent_costs_the_sender_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_WAITING_HINTS", 10)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(broker_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0", broker_timeout_seconds=0.2)
        started = time.monotonic()
        assert not broker_reachable(settings)
        hints = Queue(settings)
        for number in range(100):
            hints.send(str(number), "auto")
        hints.close()
        assert time.monotonic() - started < 2
    hints.close()


def test_a_file_that_can_be_written_again_is_used_again(tmp_path: Path) -> None:
    obstacle = tmp_path / "var"
    obstacle.write_text("in the way")
    settings = Settings(data_dir=obstacle)
    hints = Queue(settings)
    hints.send("lost", "auto")
    time.sleep(0.3)
    obstacle.unlink()
    hints.send("kept", "auto")
    hints.close()
    assert broker_reachable(settings)
    assert (obstacle / "queue.db").exists()
