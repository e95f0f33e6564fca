"""Commands as a person types them, in this process, against a real service on a real port."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.cli import main
from tests.processes import Service, run_service

Run = Callable[..., "Done"]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return orjson.loads(self.out)


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """API and worker, embedded; the tests take datasets and models of their own."""
    folder = tmp_path_factory.mktemp("var")
    with run_service({"ENGRAM_DATA_DIR": str(folder)}, folder) as running:
        running.serve()
        yield running


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs one command line. No terminal, no state of the machine's user."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("ENGRAM_API_KEY", raising=False)

    def run_command(*arguments: object, stdin: bytes = b"", **environment: str) -> Done:
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        code = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["engram", *map(str, arguments)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin))))  # type: ignore[arg-type]
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            for name, value in environment.items():
                patch.setenv(name, value)
            before = dict(os.environ)
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(bool(end.code))
            finally:
                os.environ.clear()
                os.environ.update(before)
        out.flush()
        return Done(code, out.buffer.getvalue().decode(), err.getvalue())  # type: ignore[attr-defined]

    return run_command


@pytest.fixture
def engram(run: Run, service: Service, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run`, with the service found."""
    monkeypatch.setenv("ENGRAM_URL", str(service.http.base_url))
    return run
