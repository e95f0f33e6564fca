"""Nothing that comes from outside is ever unpickled, evaluated or loaded as code."""

import ast
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import ArtifactCorrupt, EngramError
from app.lstm import Forecaster
from app.queue import make_celery
from app.settings import Settings
from app.training.execution import Executor
from tests.conftest import QUICK, Client

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("app", "workers", "migrations") for path in (ROOT / folder).rglob("*.py")]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "jsonpickle"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.save",
    "np.load",
    "numpy.load",
    "pd.read_pickle",
    "joblib.load",
}
PIPES = {"app/training/child.py", "app/training/supervision.py"}
"""Between a supervisor and the child that it started itself, over a pipe that nobody else can open: arrays one way, and back plain
dictionaries and arrays of ours. Neither end passes on what somebody sent."""


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


@pytest.fixture
def found() -> Iterator[list[str]]:
    """Every class that anything in this process unpickles while the test runs."""
    seen: list[str] = []
    is_on = True

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        if is_on and event == "pickle.find_class":  # marshal reads the byte code of every import
            seen.append(f"{event} {arguments}")

    sys.addaudithook(listen)
    yield seen
    is_on = False


def test_no_module_of_ours_can_unpickle_or_evaluate() -> None:
    assert len(SOURCES) > 100
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not {each.partition(".")[0] for each in names} & MODULES, name
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in CALLS, f"{name}:{node.lineno}"
                assert "allow_pickle" not in [word.arg for word in node.keywords], name
                if isinstance(node.func, ast.Attribute) and node.func.attr == "recv":
                    assert name in PIPES, f"{name}:{node.lineno}: multiprocessing's recv unpickles"


def test_the_queue_takes_json_only() -> None:
    celery = make_celery(Settings())
    assert (celery.conf.task_serializer, celery.conf.accept_content) == ("json", ["json"])
    assert celery.conf.result_backend is None


def test_an_artifact_that_is_a_pickle_is_refused_unread(found: list[str]) -> None:
    with pytest.raises((EngramError, ArtifactCorrupt)):
        Forecaster.from_bytes(pickle.dumps(Bomb()))
    assert not [event for event in found if event.startswith("pickle")]


def test_bodies_that_are_pickles_are_refused_unread_and_an_api_unpickles_nothing(
    client: Client, executor: Executor, found: list[str]
) -> None:
    client.post_air()
    training = client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 3, **QUICK}).json()["id"]
    del found[:]
    bomb = pickle.dumps(Bomb())
    types = ("text/csv", "application/json", "application/x-ndjson", "application/vnd.apache.parquet")
    for media_type in (*types, "application/vnd.apache.arrow.stream", "application/octet-stream"):
        for path in ("/v1/datasets/air/observations", "/v1/models/air/trainings", "/v1/models/air/forecasts"):
            assert 400 <= client.post(path, content=bomb, headers={"Content-Type": media_type}).status_code < 500
    assert not found
    assert executor.execute() == training  # beside it the supervisor takes its own child's messages
    del found[:]
    assert client.post("/v1/models/air/forecasts", json={}).status_code == 200
    assert not [event for event in found if event.startswith("pickle")]
