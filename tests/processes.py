"""The product's own processes, started as a person starts them, for tests that go through HTTP."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
START_SECONDS = 60.0
TRAINING_SECONDS = 120.0


class Service:
    """A running service: its processes, its URL, and the few calls that every journey makes."""

    def __init__(self, environment: dict[str, str], folder: Path, code: Path = ROOT) -> None:
        self.code = code
        self.environment = {**os.environ, "ENGRAM_SWEEP_SECONDS": "1", "ENGRAM_HINT_SECONDS": "3", **environment}
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        self.log: list[str] = []
        self.http = httpx.Client(timeout=60)

    def command(self, *arguments: str) -> str:
        """What a command that ends prints on stdout."""
        command = [sys.executable, "-m", "app.cli", *arguments]
        done = subprocess.run(
            command, cwd=self.code, env=self.environment, capture_output=True, text=True, timeout=START_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        self.log.append(done.stderr)
        return done.stdout.strip()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", *arguments],
            cwd=self.code,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # as a service manager does; and the kernel then shares the cores out between parts
        )
        threading.Thread(target=self._read, args=(process,), daemon=True).start()
        self.processes.append(process)
        return process

    def serve(self) -> subprocess.Popen[str]:
        """`engram serve` on a free port, and its URL from what it prints."""
        begin = len(self.log)
        process = self.start("serve", "--port=0", f"--data-dir={self.folder}")
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for line in self.log[begin:]:
                if match := re.search(r"is running\.\s+(http://\S+)", line):
                    self.http.base_url = httpx.URL(match[1])
                    return process
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError("engram serve did not start:\n" + "".join(self.log[begin:]))

    def start_parts(self) -> None:
        """Migration, API, one worker and one scheduler as separate processes."""
        self.migrate()
        self.start_api()
        self.start("worker")
        self.start("scheduler")
        self.wait_for(lambda: self.get("/health/ready").status_code == 200)

    def migrate(self) -> None:
        assert self.start("migrate").wait(START_SECONDS) == 0, "".join(self.log)

    def start_api(self, *arguments: str) -> subprocess.Popen[str]:
        """`engram api` on a free port, answering."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.http.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        process = self.start("api", f"--port={port}", *arguments)
        self.wait_for(lambda: self.get("/health/live").status_code == 200)
        return process

    def wait_for(self, condition: Any, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError("waited in vain; the log:\n" + "".join(self.log[-80:]))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.http.post(path, **options)

    def train(self, model: str, **body: Any) -> dict[str, Any]:
        """Requests a training and waits for its end."""
        answer = self.post(f"/v1/models/{model}/trainings", json=body)
        assert answer.status_code == 202, answer.text
        training: dict[str, Any] = answer.json()
        return self.wait_for_end(training["id"])

    def wait_for_end(self, training_id: str) -> dict[str, Any]:
        return self.wait_for_status(training_id, "succeeded", "failed", "cancelled")

    def wait_for_status(self, training_id: str, *statuses: str) -> dict[str, Any]:
        training: dict[str, Any] = {}

        def reached() -> bool:
            training.update(self.get(f"/v1/trainings/{training_id}").json())
            return training["status"] in statuses

        self.wait_for(reached, TRAINING_SECONDS)
        return training

    def close(self) -> None:
        self.http.close()
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            self.log.append(line)


@contextmanager
def run_service(environment: dict[str, str], folder: Path) -> Iterator[Service]:
    service = Service(environment, folder)
    try:
        yield service
    finally:
        service.close()


def list_processes_of(folder: Path) -> list[str]:
    """Command lines of every process whose environment names `folder`: what a stopped service has left behind."""
    left = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if f"ENGRAM_DATA_DIR={folder}".encode() in (entry / "environ").read_bytes():
                    left.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return left
