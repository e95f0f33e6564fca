"""`python -m migrations check`: whether the migrations lead to exactly the schema of app/tables.py, on both databases."""

import os
import sys

import psycopg

import migrations
from app.database import Database
from migrations import scratch

POSTGRES_URL = os.environ.get("ENGRAM_TEST_POSTGRES_URL", "postgresql://127.0.0.1:5432/postgres")
MUST_HAVE_SERVERS = os.environ.get("ENGRAM_TEST_REQUIRE_SERVERS") == "1"


def check() -> list[str]:
    """What differs, a line each. PostgreSQL is left out where there is none, unless it has to be there."""
    with scratch.make_sqlite() as url:
        found = _check_database(url)
    try:
        with scratch.make_postgres(POSTGRES_URL) as url:
            found += _check_database(url)
    except psycopg.OperationalError as error:
        if MUST_HAVE_SERVERS:
            raise
        print(f"PostgreSQL was not checked: {error}", file=sys.stderr)
    return found


def _check_database(url: str) -> list[str]:
    database = Database(url)
    try:
        migrations.upgrade(database)
        drift = migrations.find_drift(database)
        print(f"{database.dialect}: {drift or 'the migrations lead to the tables'}")
        return [drift] if drift else []
    finally:
        database.close()


if __name__ == "__main__":
    if sys.argv[1:] != ["check"]:
        sys.exit("usage: python -m migrations check")
    sys.exit(1 if check() else 0)
