"""The gate: what opens it, how fast a revoked key closes it, what a use of a key costs, and where its secret is kept."""

import logging
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import migrations
from app import security
from app.database import Database, utc_now
from app.errors import Conflict, PepperMissing, Unauthorized
from app.keys import service
from app.security import DEFAULT_WORKSPACE_ID, Gate, make_key, make_pepper
from app.settings import Settings
from app.tables import ApiKey
from app.telemetry import mask_keys
from tests.conftest import PEPPER, Client

Opens = Callable[..., Gate]


@pytest.fixture
def gate(database: Database, database_url: str, tmp_path: Path) -> Iterator[Opens]:
    """Opens a gate of its own to the one database, as each process does."""
    gates = []

    def build(**settings: Any) -> Gate:
        gates.append(
            Gate(database, Settings(data_dir=tmp_path, database_url=database_url, **{"key_pepper": PEPPER, **settings}))
        )
        return gates[-1]

    yield build
    for one in gates:
        one.close()


def add_key(database: Database, pepper: bytes = PEPPER.encode(), **fields: Any) -> tuple[str, str]:
    """(prefix, Authorization header) of a new key that may read."""
    with database.write() as session:
        row, key = service.create_key(session, pepper, DEFAULT_WORKSPACE_ID, name="a", scopes=["read"], expires_at=None)
        for name, value in fields.items():
            setattr(row, name, value)
        session.commit()
    return row.prefix, f"Bearer {key}"


def revoke(database: Database, prefix: str) -> None:
    with database.write() as session:
        service.revoke_key(session, service.get_key(session, DEFAULT_WORKSPACE_ID, prefix))
        session.commit()


def test_an_open_service_closes_in_every_process_with_the_first_key_for_good(database: Database, gate: Opens) -> None:
    here, there = gate(), gate()
    anybody = here.identify(None)
    assert (anybody.workspace_id, anybody.may("admin")) == (DEFAULT_WORKSPACE_ID, True)
    assert there.identify(None) == anybody
    with pytest.raises(Unauthorized):
        here.identify(f"Bearer {make_key()[0]}")  # whoever sends a key means it to be checked
    prefix, header = add_key(database)
    for one in (here, there):
        with pytest.raises(Unauthorized, match="Authorization: Bearer"):
            one.identify(None)
        with database.read() as session:
            assert not one.is_welcome(session, anybody)
        assert one.identify(header).scopes == {"read"}
    revoke(database, prefix)
    with pytest.raises(Unauthorized):
        there.identify(None)


def test_only_a_loopback_address_is_ever_open_unless_told_otherwise(gate: Opens) -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        gate(host=host).identify(None)
    for host in ("0.0.0.0", "::", "192.168.1.5", "engram.example.org"):
        gate(host=host, insecure=True).identify(None)
        with pytest.raises(Unauthorized):
            gate(host=host).identify(None)


def test_a_revoked_key_is_refused_by_the_very_next_request_of_every_process(database: Database, gate: Opens) -> None:
    here, there = gate(), gate()
    prefix, header = add_key(database)
    caller = here.identify(header)
    assert there.identify(header) == caller
    revoke(database, prefix)
    for one in (here, there):
        with pytest.raises(Unauthorized, match=f"{prefix} was revoked"):
            one.identify(header)
        with database.read() as session:
            assert not one.is_welcome(session, caller)


def test_an_expired_key_is_refused(database: Database, gate: Opens) -> None:
    _, header = add_key(database, expires_at=utc_now() + timedelta(seconds=0.3))
    caller = gate().identify(header)
    time.sleep(0.35)
    with pytest.raises(Unauthorized, match="expired"):
        gate().identify(header)
    with database.read() as session:
        assert not gate().is_welcome(session, caller)


@pytest.mark.parametrize(
    "change", [lambda h: h[:-1], lambda h: h + "A", lambda h: h.replace("Bearer", "Basic"), lambda h: h[:7]]
)
def test_a_header_that_is_no_key_is_refused_and_not_repeated(
    database: Database, gate: Opens, change: Callable[[str], str]
) -> None:
    _, header = add_key(database)
    with pytest.raises(Unauthorized) as refused:
        gate().identify(change(header))
    assert header[25:] not in refused.value.detail
    assert gate().identify(header.replace("Bearer ", "bearer  ")).may("read")


def test_what_is_kept_of_a_key_opens_nothing(database: Database, gate: Opens) -> None:
    prefix, header = add_key(database)
    with database.read() as session:
        row = session.scalars(sa.select(ApiKey)).one()
    key = header.removeprefix("Bearer ")
    assert key.startswith(prefix)
    assert len(row.digest) == 32
    assert not any(key[17:] in str(value) for value in vars(row).values())
    assert mask_keys(None, "", f"GET /v1/keys/{key} and {header}") == f"GET /v1/keys/{prefix}_*** and Bearer {prefix}_***"


def test_a_key_of_another_pepper_is_refused_and_the_log_says_what_it_may_be(
    database: Database, gate: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    prefix, header = add_key(database)
    with caplog.at_level(logging.WARNING), pytest.raises(Unauthorized):
        gate(key_pepper="another pepper that is long enough").identify(header)
    assert prefix in caplog.text
    assert "pepper" in caplog.text
    assert header not in caplog.text


def test_without_the_pepper_no_key_is_checked_and_none_made(database: Database, gate: Opens, tmp_path: Path) -> None:
    _, header = add_key(database)
    with pytest.raises(PepperMissing, match="ENGRAM_KEY_PEPPER"):
        gate(key_pepper="").identify(header)
    settings = Settings(data_dir=tmp_path, database_url="postgresql://host/name")
    with pytest.raises(PepperMissing, match="ENGRAM_KEY_PEPPER"):
        make_pepper(settings)
    assert make_pepper(settings.model_copy(update={"database_url": "sqlite:///x.db"})) == make_pepper(settings)


def test_an_embedded_pepper_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new")
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(make_pepper(settings))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file = tmp_path / "new" / "key-pepper"
    assert set(found) == {file.read_bytes()}
    assert len(found[0]) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["key-pepper"]


def test_while_the_database_is_away_a_key_that_was_good_is_recalled_and_no_other(database: Database, gate: Opens) -> None:
    one = gate(host="0.0.0.0")
    prefix, header = add_key(database)
    assert (one.recall(header), one.recall(None)) == (None, None)
    caller = one.identify(header)
    assert one.recall(header) == caller
    assert one.recall(f"Bearer {make_key()[0]}") is None
    revoke(database, prefix)
    with pytest.raises(Unauthorized):
        one.identify(header)
    assert one.recall(header) is None
    assert gate().recall(None) == security.ANYBODY


def test_a_use_is_noted_once_a_minute_and_no_request_waits_for_it(
    database: Database, gate: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda _c, _k, sql, *_: writes.append(sql))
    _, header = add_key(database)
    one = gate()
    with database.write() as session:  # as long as somebody writes, nobody else can where the database is embedded
        session.execute(sa.update(ApiKey).values(name="b"))
        begun = time.monotonic()
        for _ in range(50):
            one.identify(header)
        assert time.monotonic() - begun < 5
        session.rollback()
    one.close()
    with database.read() as session:
        used = session.scalars(sa.select(ApiKey.last_used_at)).one()
    assert used is not None
    assert utc_now() - used < timedelta(minutes=1)
    assert sum("UPDATE api_keys SET last_used_at" in sql for sql in writes) == 1
    monkeypatch.setattr(security, "USE_SECONDS", 0.0)
    later = gate()
    later.identify(header)
    later.close()
    with database.read() as session:
        assert session.scalars(sa.select(ApiKey.last_used_at)).one() > used


def test_a_rotated_key_and_its_successor_are_both_good_for_the_overlap(database: Database, gate: Opens) -> None:
    prefix, header = add_key(database)
    with database.write() as session:
        old = service.get_key(session, None, prefix)
        row, key = service.rotate_key(session, PEPPER.encode(), old, timedelta(seconds=0.3))
        session.commit()
    assert (row.name, row.scopes, row.expires_at) == ("a", ["read"], None)
    assert gate().identify(header).workspace_id == gate().identify(f"Bearer {key}").workspace_id
    time.sleep(0.35)
    with pytest.raises(Unauthorized, match="expired"):
        gate().identify(header)
    assert gate().identify(f"Bearer {key}")
    with database.write() as session, pytest.raises(Conflict):
        service.rotate_key(session, PEPPER.encode(), service.get_key(session, None, prefix), timedelta(hours=1))


def test_a_rotated_key_lives_as_long_as_the_old_one_did(database: Database) -> None:
    prefix, _ = add_key(database, expires_at=utc_now() + timedelta(days=30))
    with database.write() as session:
        old = service.get_key(session, None, prefix)
        row, _ = service.rotate_key(session, PEPPER.encode(), old, timedelta(days=60))
        assert row.expires_at is not None
        assert old.expires_at is not None
        assert timedelta(days=29.9) < old.expires_at - utc_now() < timedelta(days=30)
        assert row.expires_at > old.expires_at


def test_keys_over_http(settings: Settings) -> None:
    with Client(settings.model_copy(update={"key_pepper": Settings(key_pepper=PEPPER).key_pepper})) as client:
        made = client.post("/v1/keys", json={"name": "first", "scopes": ["admin"]})  # an open service: it closes with this
        assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
        assert client.get("/v1/keys").status_code == 401
        client.key = made.json()["key"]
        soon = (utc_now() + timedelta(days=2)).isoformat()
        second = client.post("/v1/keys", json={"name": "second", "scopes": ["predict", "read"], "expires_at": soon}).json()
        assert second["scopes"] == ["read", "predict"]
        first_page = client.get("/v1/keys?limit=1").json()
        rest = client.get(f"/v1/keys?cursor={first_page['next_cursor']}").json()
        assert [item["name"] for item in first_page["items"] + rest["items"]] == ["first", "second"]
        assert second["key"] not in str(rest)
        assert [client.delete(f"/v1/keys/{second['prefix']}").status_code for _ in range(2)] == [204, 204]
        assert client.get("/v1/datasets", headers={"Authorization": f"Bearer {second['key']}"}).status_code == 401
        assert client.get("/v1/keys").json()["items"][1]["revoked_at"] is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []},
        {"scopes": ["all"]},
        {"name": "A b"},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "9999-12-31T23:59:59-12:00"},
        {"expires_at": "2030-01-01T00:00:00"},
        {"workspace": "other"},
    ],
)
def test_a_key_that_cannot_be_meant_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    database = Database(Settings(data_dir=tmp_path).database_url)
    migrations.upgrade(database)
    database.close()
    with Client(Settings(data_dir=tmp_path)) as client:
        answer = client.post("/v1/keys", json={"name": "a", "scopes": ["read"], **wrong})
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
        assert next(iter(wrong)) in answer.json()["errors"][0]["pointer"]
        assert client.get("/v1/keys").json()["items"] == []
