"""The way to the service: over HTTP, or with --local the same API in this process, on a socket that nobody else can open."""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.environment import configure
from app.cli.failure import Failure

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_SECONDS = 300.0
"""For an answer: a large body on a busy disk takes its time."""
CONNECT_SECONDS = 10.0
START_SECONDS = 30.0
PASSING = (429, 502, 503, 504)
"""Of the service, or of a proxy before it: the request is right, the moment is not."""

Url = Annotated[str, typer.Option("--url", envvar="ENGRAM_URL", help="Where the service is.", rich_help_panel="Service")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help="File with the API key; otherwise ENGRAM_API_KEY is used.", rich_help_panel="Service"),
]
Local = Annotated[
    bool,
    typer.Option(
        "--local", help="Without a service: on the database of the settings, in this process.", rich_help_panel="Service"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]


class Service:
    """One connection. What the service refuses is raised as a Failure with its own sentence."""

    def __init__(self, http: "httpx.Client", url: str) -> None:
        self.http = http
        self.url = url

    def get(self, path: str, **params: Any) -> Any:
        return self.call("GET", path, params={name: value for name, value in params.items() if value is not None}).json()

    def post(self, path: str, body: Any) -> Any:
        return self.call("POST", path, json=body).json()

    def put(self, path: str, body: Any) -> Any:
        return self.call("PUT", path, json=body).json()

    def call(self, method: str, path: str, **options: Any) -> "httpx.Response":
        with self.failing():
            answer = self.http.request(method, path, **options)
        if not answer.is_success:
            raise to_failure(answer, self.url)
        return answer

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator["httpx.Response"]:
        """The answer while it arrives."""
        with self.failing(), self.http.stream(method, path, **options) as answer:
            if not answer.is_success:
                answer.read()
                raise to_failure(answer, self.url)
            yield answer

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Turns what goes wrong on the way into a sentence with the cure."""
        import httpx

        try:
            yield
        except httpx.ConnectError as error:
            raise Failure(
                f"nothing answers at {self.url}: start the service with `engram serve`, or say where it is with --url or ENGRAM_URL "
                f"({error})",
                may_pass=True,
            ) from error
        except httpx.TimeoutException as error:
            raise Failure(
                f"{self.url} did not answer in time; is it very busy? Its log and {self.url}/health/ready say", may_pass=True
            ) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Failure(f"--url: expected an address like {DEFAULT_URL}, found {self.url!r}") from error
        except httpx.TransportError as error:
            raise Failure(f"the connection to {self.url} broke: {error or type(error).__name__}", may_pass=True) from error

    def list_items(self, path: str, limit: int, **params: Any) -> tuple[list[dict[str, Any]], bool]:
        """(up to `limit` items of a list, page after page; whether there are more)."""
        items: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = self.get(path, limit=min(limit - len(items), 1000), cursor=cursor, **params)
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None or len(items) >= limit:
                return items, cursor is not None


@contextmanager
def connect(url: str, key_file: Path | None, local: bool) -> Iterator[Service]:
    """Opens the way that the options say. A key never stands among the arguments: every user of the machine can read those."""
    import httpx

    key = read_key(key_file)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(TIMEOUT_SECONDS, connect=CONNECT_SECONDS)
    if local:
        with (
            _run_api() as socket_path,
            httpx.Client(
                base_url="http://localhost",
                transport=httpx.HTTPTransport(uds=str(socket_path)),
                headers=headers,
                timeout=timeout,
            ) as http,
        ):
            yield Service(http, "the service in this process")
        return
    try:
        base_url = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise Failure(f"--url: expected an address like {DEFAULT_URL}, found {url!r}") from error
    with httpx.Client(base_url=base_url, headers=headers, timeout=timeout) as http:
        yield Service(http, str(base_url))


def read_key(key_file: Path | None) -> str:
    """The API key, or nothing: an open service asks for none."""
    source = "ENGRAM_API_KEY" if key_file is None else str(key_file)
    try:
        key = os.environ.get(source, "") if key_file is None else key_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"--key-file: {key_file} could not be read: {error}") from error
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Failure(f"{source}: expected one API key and nothing else; `engram keys create` makes one")
    return key


def to_failure(answer: "httpx.Response", url: str) -> Failure:
    """The service's problem as a sentence, with the places that it names below."""
    may_pass = answer.status_code in PASSING
    if "problem+json" not in answer.headers.get("content-type", ""):
        return Failure(f"{url} answered {answer.status_code}, but not as Engram does: is --url right?", may_pass=may_pass)
    problem = answer.json()
    detail = problem["detail"]
    if answer.status_code in (401, 403):
        detail += " (the key comes from --key-file or ENGRAM_API_KEY)"
    if answer.status_code >= 500 and problem["request_id"] not in detail:
        detail += f" (request_id {problem['request_id']})"
    return Failure(detail, problem, may_pass=may_pass)


@contextmanager
def _run_api() -> Iterator[Path]:
    """The API itself, in a thread, on a Unix socket in a folder of this user's: one code for both ways, streams included."""
    import uvicorn

    import migrations
    from app.database import Database, find_sqlite_file
    from app.main import create_app
    from app.telemetry import configure_logging

    settings = configure()
    if (file := find_sqlite_file(settings.database_url)) is not None and not file.exists():
        raise Failure(f"--local: there is no database {file}; ENGRAM_DATA_DIR or ENGRAM_DATABASE_URL says where it is")
    configure_logging(settings.model_copy(update={"log_level": "error"}), "local")
    database = Database(settings.database_url)
    try:
        if not migrations.is_usable(database):
            raise Failure("--local: the database is not at this version's schema; run `engram migrate` first")
    finally:
        database.close()
    with tempfile.TemporaryDirectory(prefix="engram-") as folder:
        path = Path(folder) / "api"
        config = uvicorn.Config(
            create_app(settings), uds=str(path), log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, name="api", daemon=True)
        thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise Failure("--local: the service could not be started in this process")
            time.sleep(0.01)
        try:
            yield path
        finally:
            server.should_exit = True
            thread.join(START_SECONDS)
