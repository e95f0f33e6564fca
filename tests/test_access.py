"""Nobody gets in where they do not belong: each operation of the OpenAPI document, with every kind of key that must not open it."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

import migrations
from app.database import Base, Database, utc_now
from app.keys import service
from app.main import create_app
from app.security import SCOPES, make_key, make_pepper
from app.serving.engine import Engine
from app.settings import Settings
from app.tables import ApiKey
from app.training.execution import Executor
from migrations import scratch
from tests.conftest import AIR_CSV, PEPPER, QUICK, Client

DOCUMENT = create_app(Settings()).openapi()
OPEN = {("GET", "/health/live"), ("GET", "/health/ready")}
"""What needs no key."""
LISTS = {
    ("GET", path) for path in ("/v1/datasets", "/v1/models", "/v1/trainings", "/v1/keys", "/v1/audit", "/v1/system", "/metrics")
}
"""What names nothing of anybody: each caller gets their own."""
BEGINNINGS = {
    *(("PUT", "/v1/datasets/{dataset}"), ("POST", "/v1/datasets/{dataset}/observations"), ("POST", "/v1/keys")),
    ("POST", "/v1/datasets/{dataset}/observations/preview"),
}
"""What makes something, or says what it would make, under a name that may be taken in another workspace."""
AIR_BODY = {"content": AIR_CSV.read_bytes(), "headers": {"Content-Type": "text/csv"}}
REQUESTS: dict[tuple[str, str], dict[str, Any]] = {
    ("PUT", "/v1/datasets/{dataset}"): {"json": {"description": "ours"}},
    ("PATCH", "/v1/datasets/{dataset}"): {"json": {"name": "stolen"}},
    ("POST", "/v1/datasets/{dataset}/observations"): AIR_BODY,
    ("POST", "/v1/datasets/{dataset}/observations/preview"): AIR_BODY,
    ("GET", "/v1/datasets/{dataset}/overview"): {"params": {"series": "air"}},
    ("DELETE", "/v1/datasets/{dataset}/observations"): {"params": {"series": "air"}},
    ("POST", "/v1/models/{model}/trainings"): {"json": {"dataset": "air", "horizon": 3}},
    ("PUT", "/v1/models/{model}/aliases/{alias}"): {"json": {"version": 1}},
    ("POST", "/v1/models/{model}/forecasts"): {"json": {}},
    ("POST", "/v1/keys"): {"json": {"name": "made", "scopes": ["read"]}},
}
"""What an operation needs besides its path."""


@dataclass
class House:
    """One service with workspaces `theirs`, where everything is, and `ours`, where nothing is; keys by what they are."""

    client: Client
    database: Database
    executor: Executor
    pepper: bytes
    workspaces: dict[str, int]
    names: dict[str, str] = field(default_factory=dict)

    def make_key(self, workspace: str, *scopes: str, **fields: Any) -> str:
        with self.database.write() as session:
            row, key = service.create_key(
                session, self.pepper, self.workspaces[workspace], name="test", scopes=scopes, expires_at=None
            )
            for name, value in fields.items():
                setattr(row, name, value)
            session.commit()
        return key

    def send(self, operation: tuple[str, str], key: str | None, **names: str) -> httpx.Response:
        method, path = operation
        options = dict(REQUESTS.get(operation, {}))
        headers = {**options.pop("headers", {}), **({"Authorization": f"Bearer {key}"} if key else {})}
        return self.client.request(method, path.format(**self.names, **names), headers=headers, **options)

    def dump(self, workspace: str) -> dict[str, list[Any]]:
        """Every row of a workspace; of keys not when they were used."""
        rows = {}
        with self.database.read() as session:
            for table in Base.metadata.sorted_tables:
                if "workspace_id" in table.c:
                    columns = [column for column in table.c if column.name != "last_used_at"]
                    query = sa.select(*columns).where(table.c.workspace_id == self.workspaces[workspace]).order_by(table.c.id)
                    rows[table.name] = [tuple(row) for row in session.execute(query)]
        return rows


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with ExitStack() as stack:
        url = f"sqlite:///{folder / 'engram.db'}"
        if request.param == "postgresql":
            server = request.getfixturevalue("postgres_server")
            url = stack.enter_context(scratch.make_postgres(server, request.getfixturevalue("postgres_template")))
        settings = Settings(data_dir=folder, database_url=url, key_pepper=PEPPER)
        database = Database(url)
        stack.callback(database.close)
        migrations.upgrade(database)
        with database.write() as session:
            ids = {name: service.create_workspace(session, name).id for name in ("theirs", "ours")}
            session.commit()
        client = stack.enter_context(Client(settings))
        house = House(client, database, Executor(database, settings, "test-worker", ("cpu",)), make_pepper(settings), ids)
        fill(house)
        yield house


def fill(house: House) -> None:
    """A dataset, a model with a version and a training of it that waits, and a key, all in `theirs`."""
    key = house.make_key("theirs", "admin")
    house.client.key = key
    house.client.post_air()
    house.client.train(house.executor, "air", dataset="air", horizon=3, **QUICK)
    waiting = house.client.post("/v1/models/air/trainings", json={}).json()
    house.client.key = None
    house.names = {"dataset": "air", "model": "air", "alias": "champion", "version": "1", "training": waiting["id"]}
    house.names["prefix"] = key[:16]


def list_operations() -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods]


def find_scope(operation: tuple[str, str]) -> str | None:
    """The one scope that the document says an operation needs."""
    found: dict[str, Any] = DOCUMENT["paths"][operation[1]][operation[0].lower()]
    if "security" not in found:
        return None
    assert [list(one) for one in found["security"]] == [["key"]], operation
    scopes = found["security"][0]["key"]
    assert len(scopes) == 1, f"{operation} needs exactly one scope: ask for one of ReadCaller, WriteCaller, ..."
    return str(scopes[0])


CLOSED = [operation for operation in list_operations() if operation not in OPEN]


def test_every_operation_says_which_scope_it_needs() -> None:
    assert {operation for operation in list_operations() if find_scope(operation) is None} == OPEN
    assert {find_scope(operation) for operation in CLOSED} == set(SCOPES)
    assert DOCUMENT["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for method, path in list_operations():
        answers = DOCUMENT["paths"][path][method.lower()]["responses"]
        assert ({"401", "403"} <= answers.keys()) == ((method, path) not in OPEN), (method, path)


def test_no_key_and_no_good_key_opens_anything(house: House) -> None:
    keys = {
        "none": None,
        "unknown": make_key()[0],
        "not a key": "sesame",
        "wrong secret": house.make_key("theirs", "admin")[:17] + "A" * 43,
        "revoked": house.make_key("theirs", "admin", revoked_at=utc_now()),
        "expired": house.make_key("theirs", "admin", expires_at=utc_now() - timedelta(seconds=1)),
    }
    before = house.dump("theirs")
    for operation in CLOSED:
        for kind, key in keys.items():
            answer = house.send(operation, key)
            told = (operation, kind, answer.text)
            assert (answer.status_code, answer.headers.get("www-authenticate")) == (401, "Bearer"), told
            assert answer.json()["type"] == "/problems/unauthorized", told
            assert not key or key not in answer.text + str(answer.headers), told
    assert house.dump("theirs") == before
    assert house.client.get("/v1/no/such/path").status_code == 401
    for path in ("/health/live", "/health/ready", "/docs", "/openapi.json"):
        assert house.client.get(path).status_code == 200


def test_a_key_without_the_scope_is_refused_and_one_with_it_alone_is_not(house: House) -> None:
    before = house.dump("theirs")
    for scope in SCOPES:
        others = house.make_key("theirs", *(set(SCOPES) - {scope, "admin"}))
        alone, admin = house.make_key("ours", scope), house.make_key("ours", "admin")
        for operation in (one for one in CLOSED if find_scope(one) == scope):
            answer = house.send(operation, others)
            assert (answer.status_code, answer.json()["expected"]) == (403, scope), (operation, answer.text)
            for key in (alone, admin):
                assert house.send(operation, key).status_code not in (401, 403), operation
    after = house.dump("theirs")
    assert {**after, "api_keys": None} == {**before, "api_keys": None}


def test_a_dataset_takes_models_along_only_for_a_key_that_may_delete_models(house: House) -> None:
    house.client.key = house.make_key("theirs", "write")
    answer = house.client.delete("/v1/datasets/air?cascade=true")
    assert (answer.status_code, answer.json()["expected"]) == (403, "train")
    assert house.client.delete("/v1/datasets/air").status_code == 409
    house.client.key = None


def test_what_another_workspace_owns_is_404_on_every_operation_and_untouched(house: House) -> None:
    with house.database.write() as session:
        house.workspaces["stranger"] = service.create_workspace(session, "stranger").id
        session.commit()
    stranger = house.make_key("stranger", "admin")
    before = house.dump("theirs")
    for operation in CLOSED:
        if operation in LISTS | BEGINNINGS:
            continue
        answer = house.send(operation, stranger)
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found"), (operation, answer.text)
    for operation in LISTS - {("GET", "/metrics")}:
        body = house.send(operation, stranger).json()
        if "items" in body:
            assert [item["prefix"] for item in body["items"]] == ([stranger[:16]] if operation[1] == "/v1/keys" else []), (
                operation
            )
        else:
            assert set(body["trainings"].values()) == {0}
    for operation in BEGINNINGS:
        assert house.send(operation, stranger).status_code in (200, 201), operation
    assert house.dump("theirs") == before
    assert len(house.dump("stranger")["series"]) == 1


def test_equal_names_in_two_workspaces_are_two_things(house: House) -> None:
    with house.database.write() as session:
        house.workspaces["twin"] = service.create_workspace(session, "twin").id
        session.execute(sa.text("UPDATE trainings SET status = 'cancelled' WHERE status = 'queued'"))
        session.commit()
    forecast = ("POST", "/v1/models/{model}/forecasts")
    theirs, twin = house.make_key("theirs", "admin"), house.make_key("twin", "admin")
    before = house.send(forecast, theirs).json()["forecasts"]
    house.client.key = twin
    rows = "timestamp,value\n" + "\n".join(f"2020-01-{day:02},{day % 7}" for day in range(1, 32))
    answer = house.client.post("/v1/datasets/air/observations", content=rows, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 200, answer.text
    house.client.train(house.executor, "air", dataset="air", horizon=2, **QUICK)
    house.client.key = None
    assert house.send(forecast, twin).json()["forecasts"][0]["cutoff"] == "2020-01-31T00:00:00Z"
    assert house.send(forecast, theirs).json()["forecasts"] == before
    gone = house.client.delete("/v1/datasets/air?cascade=true", headers={"Authorization": f"Bearer {twin}"})
    assert gone.status_code == 204
    assert house.send(forecast, twin).status_code == 404
    assert house.send(forecast, theirs).json()["forecasts"] == before


def test_a_deleted_version_that_is_still_loaded_answers_for_nobody_else(house: House) -> None:
    """Where ids came again, the next version had the deleted one's forecaster."""
    forecast = ("POST", "/v1/models/{model}/forecasts")
    with house.database.write() as session:
        for name in ("before", "after"):
            house.workspaces[name] = service.create_workspace(session, name).id
        session.execute(sa.text("UPDATE trainings SET status = 'cancelled' WHERE status = 'queued'"))
        session.commit()
    for name in ("before", "after"):
        house.client.key = key = house.make_key(name, "admin")
        house.client.post_air()
        house.client.train(house.executor, "air", dataset="air", horizon=len(name), **QUICK)
        answer = house.send(forecast, key).json()
        assert len(answer["forecasts"][0]["median"]) == len(name)
        if name == "before":
            assert house.send(("DELETE", "/v1/models/{model}"), key).status_code == 204
    served = answer["forecasts"][0]["median"]
    old = house.client.app.state.engine
    house.client.app.state.engine = Engine(house.client.app.state.database, house.client.app.state.settings)
    old.close()
    assert house.send(forecast, key).json()["forecasts"][0]["median"] == served
    house.client.key = None


def test_a_workspace_takes_its_keys_and_things_along(house: House) -> None:
    """No row of a workspace outlives it, whichever table it stands in."""
    with house.database.write() as session:
        house.workspaces["gone"] = service.create_workspace(session, "gone").id
        session.commit()
    key = house.make_key("gone", "admin")
    house.client.key = key
    house.client.post_air()
    house.client.key = None
    with house.database.write() as session:
        session.delete(service.get_workspace(session, "gone"))
        session.commit()
    assert not any(house.dump("gone").values())
    assert house.client.get("/v1/datasets", headers={"Authorization": f"Bearer {key}"}).status_code == 401
    with house.database.read() as session:
        assert session.scalar(sa.select(ApiKey.id).where(ApiKey.prefix == key[:16])) is None
