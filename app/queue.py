"""The only file in app/ that knows Celery: names of the task and the queues, and `send`, which never makes a client wait for a broker."""

import queue
import threading
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.messaging import Producer

from app import sqlite_broker
from app.settings import Settings
from app.telemetry import log

TRAIN_TASK = "engram.train"
QUEUES = ("auto", "cpu", "cuda")
"""One per `device` of a request; a worker listens to `auto` and to those of its own devices."""
WORKER_OPTIONS = {
    "pool_cls": "threads",
    "without_gossip": True,
    "without_mingle": True,
    "without_heartbeat": True,
    "loglevel": "WARNING",
    "quiet": True,
}
"""What every `celery.Worker` of ours is made with: its threads only watch over children, and workers know each other by their rows.

Not by Celery's command line: it loads all of Celery's commands, which is a sixth of a worker's start.
"""
MAX_WAITING_HINTS = 10_000
MAX_WAITING_BELLS = 100
"""A hint is not sent again to a queue that holds so many: one wakes a worker, and a queue that nobody hears must not grow for ever."""
SEND_ONCE_MORE = {"max_retries": 1, "interval_start": 0.0, "interval_step": 0.0, "interval_max": 0.0}
"""The first attempt after an outage finds a dead connection; the second makes a new one."""
SOCKET_TIMEOUT_SECONDS = 5.0
"""A broker that went away without a word is given up after this. Above the 1 s of a worker's blocking pop, which it would cut short."""
_STOP = None


def make_celery(settings: Settings) -> Celery:
    """The Celery application that both ends of the queue use. Messages carry an id and may be lost, late or doubled."""
    sqlite_broker.register()
    celery = Celery("engram", broker=settings.broker_url, set_as_current=False)
    celery.conf.update(
        task_ignore_result=True,
        task_acks_late=False,  # the row's lease brings a lost training back; a late ack would only double it
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        task_default_queue="auto",
        task_create_missing_queues=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker outlives any outage
        broker_connection_timeout=settings.broker_timeout_seconds,
        broker_transport_options=_transport_options(settings),
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_disable_prefetch=not settings.is_queue_embedded,  # a busy worker leaves the bell to an idle one; Celery can on Redis only
    )
    return celery


class Queue:
    """Sends hints from a thread of its own. A hint that cannot be sent is dropped: the row stands, and the sweep sends it again."""

    def __init__(self, settings: Settings) -> None:
        self._celery = make_celery(settings)
        self._waiting: queue.Queue[tuple[str, str, bool] | None] = queue.Queue(MAX_WAITING_HINTS)
        self._grace_seconds = settings.broker_timeout_seconds * 2
        self._thread = threading.Thread(target=self._run, name="hints", daemon=True)
        self._thread.start()

    def send(self, training_id: str, device: str, *, again: bool = False) -> None:
        """Rings the bell for a training that is committed; `again` if one was rung before. Returns at once."""
        try:
            self._waiting.put_nowait((training_id, device, again))
        except queue.Full:
            log.warning("hint dropped: too many wait for the broker", training_id=training_id)

    def close(self) -> None:
        """Gives the hints under way a moment; whatever is left, the sweep sends."""
        try:
            self._waiting.put_nowait(_STOP)
        except queue.Full:
            return
        self._thread.join(self._grace_seconds)

    def _run(self) -> None:
        # A connection of its own: kombu's pools are shared by all queues of the same options, and closed for all by one.
        with self._celery.connection_for_write() as connection:
            producer = self._celery.amqp.Producer(connection, auto_declare=False)
            while (hint := self._waiting.get()) is not _STOP:
                training_id, device, again = hint
                try:
                    if again and _count_waiting(producer, device) >= MAX_WAITING_BELLS:
                        continue
                    self._celery.send_task(
                        TRAIN_TASK, args=[training_id], queue=device, producer=producer, retry_policy=SEND_ONCE_MORE
                    )
                except Exception as error:  # noqa: BLE001 - each transport has its own errors, and none may end this thread
                    log.warning("hint not sent; the sweep will", training_id=training_id, error=str(error))


def _count_waiting(producer: Producer, device: str) -> int:
    return int(producer.channel.queue_declare(queue=device).message_count)


def broker_reachable(settings: Settings) -> bool:
    """Whether the broker answers within its timeout; for /health/ready, which names it beside."""
    sqlite_broker.register()
    options = {**_transport_options(settings), "socket_timeout": settings.broker_timeout_seconds}
    try:
        with Connection(settings.broker_url, transport_options=options) as connection:
            connection.ensure_connection(max_retries=0)
    except Exception:  # noqa: BLE001 - each transport has its own errors
        return False
    return True


def _transport_options(settings: Settings) -> dict[str, Any]:
    """kombu's own retries are off: each would sleep for 2 s, and those who want another attempt (a worker, `Queue`) make it."""
    if settings.is_queue_embedded:
        return {"max_retries": 0}
    return {
        "max_retries": 0,
        "socket_connect_timeout": settings.broker_timeout_seconds,
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
