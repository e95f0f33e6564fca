"""Neighbouring versions on one database: what fits, what is refused, and that a revision which says it fits keeps what older code needs."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

import migrations
from app.database import Database
from app.errors import Unavailable
from app.settings import Settings
from migrations import scratch
from tests.conftest import Client

SCRIPTS = ScriptDirectory(str(migrations.FOLDER))
REVISIONS = [script.revision for script in reversed(list(SCRIPTS.walk_revisions()))]


@pytest.mark.parametrize(
    ("schema", "code", "expected"),
    [
        ("0003_since_0002", "0003_since_0002", True),
        ("0003", "0003", True),
        ("0004_since_0002", "0003_since_0002", True),
        ("0004_since_0002", "0002", True),
        ("0004_since_0002", "0001", False),
        ("0004", "0003_since_0002", False),
        ("0002_since_0001", "0003_since_0002", False),
        ("0001", "0002_since_0001", False),
    ],
)
def test_a_newer_schema_fits_if_its_name_says_so_and_an_older_one_never(schema: str, code: str, expected: bool) -> None:
    assert migrations.fits(schema, code) is expected


def test_revisions_are_numbered_and_open_to_code_that_grows_no_older() -> None:
    parsed = [migrations._parse(revision) for revision in REVISIONS]
    assert [number for number, _ in parsed] == list(range(1, len(REVISIONS) + 1))
    oldest = [since for _, since in parsed]
    assert oldest == sorted(oldest), "what was contracted once stays so"
    assert all(since <= number for number, since in parsed)
    files = sorted(path.name[:4] for path in (migrations.FOLDER / "versions").glob("[0-9]*.py"))
    assert files == [revision[:4] for revision in REVISIONS]
    assert migrations.head() == SCRIPTS.get_current_head(), "the newest file's name begins with its revision"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest) -> Iterator[Database]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = stack.enter_context(scratch.make_sqlite())
        else:
            url = stack.enter_context(scratch.make_postgres(request.getfixturevalue("postgres_server")))
        database = Database(url)
        stack.callback(database.close)
        yield database


def upgrade_to(database: Database, revision: str) -> sa.Inspector:
    with database.write() as session:
        config = migrations._config()
        config.attributes["connection"] = session.connection()
        command.upgrade(config, revision)
        session.commit()
    return sa.inspect(database.engine)


def describe(inspector: sa.Inspector) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        table: {
            column["name"]: {"type": str(column["type"]), "nullable": column["nullable"], "default": column["default"]}
            for column in inspector.get_columns(table)
        }
        for table in inspector.get_table_names()
    }


def list_unique(inspector: sa.Inspector, table: str) -> set[tuple[str, ...]]:
    return {tuple(found["column_names"]) for found in inspector.get_unique_constraints(table)}


def test_a_revision_that_fits_older_code_takes_nothing_from_it(empty: Database) -> None:
    """Whatever older code reads or writes is still there, and nothing new is asked of its inserts."""
    oldest = {revision: migrations._parse(revision)[1] for revision in REVISIONS}
    seen: dict[int, tuple[dict[str, Any], dict[str, set[tuple[str, ...]]]]] = {}
    for number, revision in enumerate(REVISIONS, 1):
        inspector = upgrade_to(empty, revision)
        tables = describe(inspector)
        unique = {table: list_unique(inspector, table) for table in tables}
        for older in range(oldest[revision], number):
            for table, columns in seen[older][0].items():
                assert table in tables, f"{revision} drops {table}, which {REVISIONS[older - 1]} uses"
                for name, column in columns.items():
                    assert tables[table].get(name) == column, f"{revision} changes {table}.{name}"
                for name in tables[table].keys() - columns.keys():
                    added = tables[table][name]
                    assert added["nullable"] or added["default"], f"{table}.{name} would refuse an older version's insert"
                assert unique[table] <= seen[older][1][table], f"{revision} refuses in {table} what an older version may write"
        seen[number] = tables, unique


def pretend(database: Database, revision: str) -> None:
    """As if a version to come had migrated: a revision that this code does not know, with a new table and column."""
    with database.write() as session:
        session.execute(sa.text("CREATE TABLE novelties (id INTEGER PRIMARY KEY)"))
        session.execute(sa.text("ALTER TABLE trainings ADD COLUMN novelty INTEGER"))
        session.execute(sa.text("ALTER TABLE series ADD COLUMN novelty INTEGER DEFAULT 1 NOT NULL"))
        session.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        session.commit()


def test_an_older_api_stays_ready_and_works_on_a_schema_that_was_expanded(client: Client, database: Database) -> None:
    pretend(database, f"9999_since_{migrations.head()[:4]}")
    migrations.upgrade(database)
    assert client.get("/health/ready").status_code == 200
    client.post_air()
    assert client.post("/v1/models/air/trainings", json={"dataset": "air", "horizon": 3}).status_code == 202


@pytest.mark.parametrize("revision", ["9999", "9999_since_9998"])
def test_an_older_api_is_not_ready_on_a_schema_that_was_contracted(client: Client, database: Database, revision: str) -> None:
    pretend(database, revision)
    assert client.get("/health/ready").status_code == 503
    with pytest.raises(Unavailable, match="9999"):
        migrations.upgrade(database)


def test_a_newer_api_is_not_ready_before_the_migration(empty: Database, tmp_path: Path) -> None:
    upgrade_to(empty, REVISIONS[-2])
    url = empty.engine.url.render_as_string(hide_password=False)
    with Client(Settings(data_dir=tmp_path, database_url=url)) as client:
        assert client.get("/health/ready").status_code == 503
        migrations.upgrade(empty)
        assert client.get("/health/ready").status_code == 200
