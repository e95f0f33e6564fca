"""The embedded broker: messages in order, once each, whoever dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection, Exchange, Queue
from kombu.exceptions import OperationalError

from app import sqlite_broker
from app.processes import is_running, name_process
from app.settings import Settings

sqlite_broker.register()

ROOT = Path(__file__).parents[1]
PRODUCER = """
import sys
from tests.test_sqlite_broker import send
send(sys.argv[1], [f"{sys.argv[2]}-{number}" for number in range(int(sys.argv[3]))])
"""
CONSUMER = """
import sys
from tests.test_sqlite_broker import receive
for body in receive(sys.argv[1], quiet_seconds=2.0):
    print(body, flush=True)
"""
HOLDER = """
import sys, time
from tests.test_sqlite_broker import receive
for body in receive(sys.argv[1], acknowledge=False):
    print(body, flush=True)
    time.sleep(60)
"""


def to_queue(name: str = "auto") -> Queue:
    return Queue(name, Exchange(name), routing_key=name)


def send(url: str, bodies: list[str], queue: str = "auto") -> None:
    with Connection(url) as connection, connection.Producer() as producer:
        for body in bodies:
            producer.publish(
                body, exchange=to_queue(queue).exchange, routing_key=queue, declare=[to_queue(queue)], serializer="json"
            )


def receive(url: str, *, queue: str = "auto", quiet_seconds: float = 0.3, acknowledge: bool = True) -> Iterator[str]:
    """What comes, until nothing has come for `quiet_seconds`."""
    came: list[str] = []

    def take(body: str, message: object) -> None:
        came.append(body)
        if acknowledge:
            message.ack()  # type: ignore[attr-defined]

    with Connection(url) as connection:
        consumer = connection.Consumer([to_queue(queue)], callbacks=[take], accept=["json"])
        consumer.qos(prefetch_count=1)
        with consumer:
            deadline = time.monotonic() + quiet_seconds
            while time.monotonic() < deadline:
                try:
                    connection.drain_events(timeout=0.1)
                except TimeoutError:
                    continue
                if came:
                    yield came.pop()
                    deadline = time.monotonic() + quiet_seconds


def count(url: str, queue: str = "auto") -> int:
    with Connection(url) as connection:
        return int(connection.channel().queue_declare(queue).message_count)


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def url(tmp_path: Path) -> str:
    return Settings(data_dir=tmp_path / "a folder; not yet there, 100 % new?").broker_url


def test_messages_come_in_the_order_in_which_they_were_sent(url: str) -> None:
    send(url, [str(number) for number in range(100)])
    assert list(receive(url)) == [str(number) for number in range(100)]


def test_queues_are_apart(url: str) -> None:
    send(url, ["a"], "cpu")
    send(url, ["b"], "cuda")
    assert list(receive(url, queue="cuda")) == ["b"]
    assert list(receive(url, queue="cpu")) == ["a"]


def test_size_counts_what_waits_and_purge_drops_it(url: str) -> None:
    send(url, ["a", "b", "c"])
    send(url, ["d"], "cpu")
    assert count(url) == 3
    with Connection(url) as connection:
        assert connection.channel().queue_purge("auto") == 3
    assert count(url) == 0
    assert count(url, "cpu") == 1


def test_many_threads_lose_nothing_and_double_nothing(url: str) -> None:
    came: list[str] = []
    senders = [threading.Thread(target=send, args=(url, [f"{n}-{i}" for i in range(50)])) for n in range(4)]
    receivers = [threading.Thread(target=lambda: came.extend(receive(url, quiet_seconds=1.0))) for _ in range(4)]
    for thread in senders + receivers:
        thread.start()
    for thread in senders + receivers:
        thread.join()
    assert sorted(came) == sorted(f"{n}-{i}" for n in range(4) for i in range(50))


def test_threads_may_share_one_connection(url: str) -> None:
    """As Celery does: its main thread polls while those of its pool acknowledge."""
    send(url, [str(number) for number in range(20)])
    acknowledged: list[threading.Thread] = []

    def take(_body: str, message: object) -> None:
        acknowledged.append(threading.Thread(target=message.ack))  # type: ignore[attr-defined]
        acknowledged[-1].start()

    with Connection(url) as connection, connection.Consumer([to_queue()], callbacks=[take], accept=["json"]):
        while len(acknowledged) < 20:
            connection.drain_events(timeout=5)
        for thread in acknowledged:
            thread.join()
    assert count(url) == 0


def test_many_processes_lose_nothing_and_double_nothing(url: str) -> None:
    consumers = [run_python(CONSUMER, url) for _ in range(2)]
    producers = [run_python(PRODUCER, url, name, 100) for name in "ab"]
    came = [line for process in producers + consumers for line in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in producers + consumers] == [0, 0, 0, 0]
    assert sorted(came) == sorted(f"{name}-{number}" for name in "ab" for number in range(100))


def test_what_a_killed_process_held_comes_again_in_its_old_place(url: str) -> None:
    send(url, ["first", "second"])
    with run_python(HOLDER, url) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "first\n"
        assert count(url) == 1
        os.kill(holder.pid, signal.SIGKILL)
    started = time.monotonic()
    again = receive(url, quiet_seconds=5)
    assert next(again) == "first"
    assert time.monotonic() - started < 2.5
    assert next(again) == "second"
    again.close()


def test_what_a_closed_connection_held_comes_again(url: str) -> None:
    send(url, ["a"])
    assert list(receive(url, acknowledge=False)) == ["a"]
    assert list(receive(url)) == ["a"]
    assert list(receive(url)) == []


def test_a_rejected_message_comes_again_only_if_requeued(url: str) -> None:
    send(url, ["a"])
    with Connection(url) as connection:
        channel = connection.channel()
        channel.basic_get("auto").requeue()
        channel.basic_get("auto").reject()
        assert channel.basic_get("auto") is None
    assert list(receive(url)) == []


def test_a_deleted_file_is_begun_anew_by_both_ends(url: str, tmp_path: Path) -> None:
    with Connection(url) as sender, Connection(url) as receiver:
        sender.SimpleQueue("auto").put("lost")
        waiting = receiver.SimpleQueue("auto")
        for path in tmp_path.glob("*/queue.db*"):
            path.unlink()
        sender.SimpleQueue("auto").put("kept")
        message = waiting.get(timeout=5)
        assert message.payload == "kept"
        message.ack()


@pytest.mark.parametrize("intact_bytes", [0, 5000])
def test_a_damaged_file_is_set_aside(url: str, tmp_path: Path, intact_bytes: int) -> None:
    send(url, ["a"] * 50)
    path = next(tmp_path.glob("*/queue.db"))
    path.write_bytes(path.read_bytes()[:intact_bytes] + b"no database" * 1000)
    send(url, ["b"])
    assert list(receive(url)) == ["b"]
    assert path.with_name("queue.db.damaged").exists()


def test_a_place_that_cannot_be_written_is_a_connection_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with Connection(Settings(data_dir=tmp_path / "file").broker_url) as connection, pytest.raises(OperationalError):
        connection.ensure_connection(max_retries=0)


def test_a_process_is_running_until_it_has_ended() -> None:
    assert is_running(name_process()) is True
    with run_python("import app.processes as p, sys; print(p.name_process(), flush=True); sys.stdin.read()") as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        assert is_running(name) is True
        other.kill()
        time.sleep(0.2)
        assert is_running(name) is False, "a zombie has ended"
    assert is_running(name) is False
    place, number, started = name_process().rsplit("/", 2)
    assert is_running(f"{place}/{number}/{int(started) - 1}") is False, "the number came again"
    assert is_running(f"elsewhere/{number}/{started}") is None
