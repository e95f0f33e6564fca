"""`engram serve` and `engram api --processes N`: one command that starts several processes, keeps them running, and stops them together."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import migrations
from app.database import Database
from app.lifeline import on_stop
from app.security import has_keys
from app.settings import Settings
from app.telemetry import configure_logging, log, share_numbers

READY_SECONDS = 60.0
RESTART_SECONDS = 1.0
"""Between a part's end and its next start: one that cannot start must not spin."""
POLL_SECONDS = 0.5
FOLLOW = """
Engram is running.   {url}        stop it with Ctrl-C
                     {url}/docs   every call, to try out

Three calls take you from a CSV file to a forecast:

  curl -X POST {url}/v1/datasets/air/observations{key} -H 'Content-Type: text/csv' --data-binary @examples/air_passengers.csv
  curl -X POST {url}/v1/models/air/trainings{key} -H 'Content-Type: application/json' -d '{{"dataset": "air", "horizon": 12}}'
  curl -X POST {url}/v1/models/air/forecasts{key} -H 'Content-Type: application/json' -d '{{}}'
"""
KEY_HEADER = """ -H "Authorization: Bearer $KEY\""""


@dataclass
class Part:
    """One process, started again whenever it ends before it should."""

    name: str
    command: list[str]
    fds: tuple[int, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    ended_at: float = 0.0

    def start(self) -> None:
        """In a session of its own, so that Ctrl-C reaches the supervisor alone; its stdin is the lifeline."""
        self.process = subprocess.Popen(  # noqa: S603 - this interpreter and our own modules
            self.command,
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,
            pass_fds=self.fds,
            start_new_session=True,
        )

    def keep_running(self) -> None:
        if self.process is None or self.process.poll() is None:
            return
        if not self.ended_at:
            self.ended_at = time.monotonic()
            log.error("part ended; it is started again", name=self.name, exit_code=self.process.returncode)
        elif time.monotonic() - self.ended_at >= RESTART_SECONDS:
            self.ended_at = 0.0
            self.start()


def serve(settings: Settings, workers: int) -> int:
    """Everything: migrates, then one API process and its workers. The exit code: 0 after a signal, 1 if the service could not start."""
    parts = [Part(f"worker {number + 1}", [sys.executable, "-m", "workers", "--lifeline"]) for number in range(workers)]
    return _run(settings, 1, parts, is_whole=True)


def serve_api(settings: Settings, processes: int) -> int:
    """API processes alone, on one socket. They share nothing else: any number may be started on any number of hosts."""
    return _run(settings, processes, [], is_whole=False)


def _run(settings: Settings, apis: int, others: list[Part], *, is_whole: bool) -> int:
    configure_logging(settings, "supervisor")
    stopping = threading.Event()
    on_stop(stopping.set)
    try:
        listener = open_socket(settings.host, settings.port)
    except OSError as error:
        log.error("cannot listen; is another Engram running? --port takes another port", port=settings.port, error=str(error))
        return 1
    follow = "Engram's API listens on {url}"
    if is_whole:
        follow = FOLLOW.replace("{key}", KEY_HEADER if _prepare(settings) else "")
    fd = listener.fileno()
    api = [sys.executable, "-m", "app.cli", "api", f"--fd={fd}", "--lifeline"]
    with tempfile.TemporaryDirectory(prefix="engram-numbers-") as folder:
        parts = [
            Part(f"api {place}", api, (fd,), share_numbers(Path(folder), place) if apis > 1 else {})
            for place in range(1, apis + 1)
        ]
        parts += others
        for part in parts:
            part.start()
        try:
            return _supervise(parts, listener, stopping, follow=follow)
        finally:
            stop(parts, settings.grace_seconds)


def _prepare(settings: Settings) -> bool:
    """Migrates. Whether callers need a key."""
    database = Database(settings.database_url)
    try:
        migrations.upgrade(database)
        with database.read() as session:
            return has_keys(session)
    finally:
        database.close()


def open_socket(host: str, port: int) -> socket.socket:
    """Opened here and handed to the API: a port in use is said at once, and an API that restarts refuses no connection."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(2048)
    return listener


def stop(parts: list[Part], grace_seconds: float) -> None:
    """SIGTERM to all at once; what is still there after the grace time is killed."""
    running = [part.process for part in parts if part.process is not None]
    for process in running:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + grace_seconds
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("a part did not stop within the grace time; it is killed", pid=process.pid)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # itself if need be, and a forkserver that has not yet seen that it is alone
        process.wait()


def _supervise(parts: list[Part], listener: socket.socket, stopping: threading.Event, *, follow: str) -> int:
    host, port = listener.getsockname()[:2]
    if not _wait_until_live(host, port, parts[0], stopping):
        if not stopping.is_set():
            log.error("the API did not start; its log above says why")
        return 0 if stopping.is_set() else 1
    shown = f"[{host}]" if ":" in host else host
    print(follow.format(url=f"http://{shown}:{port}"), flush=True)  # noqa: T201 - for the person who typed the command
    while not stopping.wait(POLL_SECONDS):
        for part in parts:
            part.keep_running()
    return 0


def _wait_until_live(host: str, port: int, api: Part, stopping: threading.Event) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - looked up, not bound
    while time.monotonic() < deadline and not stopping.is_set():
        if api.process is not None and api.process.poll() is not None:
            return False
        connection = http.client.HTTPConnection(target, port, timeout=POLL_SECONDS)
        try:
            connection.request("GET", "/health/live")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return True
        except OSError:
            stopping.wait(0.05)
        finally:
            connection.close()
    return False
