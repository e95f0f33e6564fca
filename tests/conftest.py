"""Real parts: every test that touches rows runs on SQLite and on PostgreSQL, each on a fresh database of its own."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import psycopg
import pytest
import redis
import sqlalchemy as sa

import migrations
from app.database import Database
from app.main import create_app
from app.settings import Settings
from app.telemetry import configure_logging
from app.training.execution import Executor
from migrations import scratch
from tests.databases import Lent

POSTGRES_URL = os.environ.get("ENGRAM_TEST_POSTGRES_URL", "postgresql://127.0.0.1:5432/postgres")
REDIS_URL = os.environ.get("ENGRAM_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
AIR_CSV = Path(__file__).parent.parent / "examples" / "air_passengers.csv"
QUICK = {"fit": {"max_steps": 30}}
"""A training that takes no time: what it learns does not matter."""
PEPPER = "a pepper for tests that is long enough"
MUST_HAVE_SERVERS = os.environ.get("ENGRAM_TEST_REQUIRE_SERVERS") == "1"


LONGEST_FIRST = ("tests/test_parts.py", "tests/test_journey.py", "tests/cli/", "tests/test_doctor.py", "tests/training/")
"""What begins last is what everybody waits for at the end."""
EACH_ALONE = ("tests/test_parts.py",)
"""Modules whose tests share nothing and take long: each test goes to whichever process is free. Of others a module stays together."""

configure_logging(Settings(log_level="warning"), "test")
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")


def missing(reason: str) -> None:
    """Skips, or fails where ENGRAM_TEST_REQUIRE_SERVERS=1 says that the server has to be there."""
    if MUST_HAVE_SERVERS:
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def find_place(item: pytest.Item) -> int:
        places = (place for place, beginning in enumerate(LONGEST_FIRST) if item.nodeid.startswith(beginning))
        return next(places, len(LONGEST_FIRST))

    items.sort(key=find_place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadscope`, with a few modules in parts."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(EACH_ALONE) else nodeid.partition("::")[0]

    return Scheduling(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture(scope="session")
def postgres_server() -> str:
    try:
        psycopg.connect(POSTGRES_URL, connect_timeout=2).close()
    except psycopg.OperationalError as error:
        missing(f"no PostgreSQL at {POSTGRES_URL} (ENGRAM_TEST_POSTGRES_URL): {error}")
    return POSTGRES_URL


@pytest.fixture(scope="session")
def redis_url() -> str:
    """One database for all tests: each takes queue names of its own."""
    try:
        with redis.Redis.from_url(REDIS_URL, socket_connect_timeout=2) as client:
            client.ping()
    except redis.RedisError as error:
        missing(f"no Redis at {REDIS_URL} (ENGRAM_TEST_REDIS_URL): {error}")
    return REDIS_URL


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """A migrated database that fresh ones are copied from: a copy takes a tenth of a migration."""
    with scratch.make_postgres(postgres_server) as url:
        database = Database(url)
        migrations.upgrade(database)
        database.close()
        yield str(sa.make_url(url).database)


@pytest.fixture(scope="session")
def postgres_lent(postgres_server: str, postgres_template: str) -> Iterator[Lent]:
    lent = Lent(postgres_server, postgres_template)
    yield lent
    lent.close()


@pytest.fixture
def postgres_url(postgres_lent: Lent) -> Iterator[str]:
    """The URL of a migrated PostgreSQL database that nobody else has, without a row."""
    with postgres_lent.lend() as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file that fresh ones are copied from."""
    path = tmp_path_factory.mktemp("template") / "engram.db"
    database = Database(f"sqlite:///{path}")
    migrations.upgrade(database)
    database.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        copied = shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "engram.db")
        return f"sqlite:///{copied}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, database_url=database_url)


@pytest.fixture
def executor(database: Database, settings: Settings) -> Executor:
    """A worker's insides without Celery: claims, supervises a real child, finishes."""
    return Executor(database, settings, "test-worker", ("cpu",))


@pytest.fixture
def client(settings: Settings) -> Iterator["Client"]:
    """The whole API in this process, without a worker: a training stays queued."""
    with Client(settings) as client:
        yield client


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple["Client", Executor]]:
    """As `client` and `executor`, on a database that lasts for the module: for tests that only read what was trained once."""
    folder = tmp_path_factory.mktemp("kept")
    with ExitStack() as stack:
        url = f"sqlite:///{folder / 'engram.db'}"
        if request.param == "postgresql":
            server = request.getfixturevalue("postgres_server")
            url = stack.enter_context(scratch.make_postgres(server, request.getfixturevalue("postgres_template")))
        settings = Settings(data_dir=folder, database_url=url)
        database = Database(url)
        stack.callback(database.close)
        migrations.upgrade(database)
        client = stack.enter_context(Client(settings))
        yield client, Executor(database, settings, "test-worker", ("cpu",))


class Client:
    """A plain blocking HTTP client onto an app in this process (httpx's own ASGI transport, lifespan included)."""

    def __init__(self, settings: Settings) -> None:
        from anyio.from_thread import start_blocking_portal

        self.key: str | None = None
        self.app = create_app(settings)
        self._portals = start_blocking_portal()
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=True), base_url="http://localhost", timeout=60
        )

    def __enter__(self) -> "Client":
        self._portal = self._portals.__enter__()
        self._lifespan = self._portal.wrap_async_context_manager(self.app.router.lifespan_context(self.app))
        self._lifespan.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._portal.call(self._http.aclose)
        self._lifespan.__exit__(None, None, None)
        self._portals.__exit__(None, None, None)

    def post_air(self, dataset: str = "air") -> None:
        """The example: 144 months of air passengers."""
        answer = self.post(
            f"/v1/datasets/{dataset}/observations", content=AIR_CSV.read_bytes(), headers={"Content-Type": "text/csv"}
        )
        assert answer.status_code == 200, answer.text

    def train(self, executor: Executor, model: str, **body: object) -> dict[str, Any]:
        """Requests a training, executes it here, and gives it as it ended."""
        answer = self.post(f"/v1/models/{model}/trainings", json=body)
        assert answer.status_code == 202, answer.text
        assert executor.execute() == answer.json()["id"]
        return dict(self.get(f"/v1/trainings/{answer.json()['id']}").json())

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """With `self.key`, if there is one, unless the caller sends another Authorization."""
        if self.key:
            options["headers"] = {"Authorization": f"Bearer {self.key}", **options.get("headers", {})}
        return self._portal.call(lambda: self._http.request(method, path, **options))

    def get(self, path: str, **options: object) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: object) -> httpx.Response:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: object) -> httpx.Response:
        return self.request("PUT", path, **options)

    def patch(self, path: str, **options: object) -> httpx.Response:
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: object) -> httpx.Response:
        return self.request("DELETE", path, **options)
