"""The schema's history (Alembic): `upgrade` brings a database to head, `is_at_head` says whether it is there."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from app.database import Database

FOLDER = Path(__file__).parent


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


def head() -> str:
    """The newest revision that this code knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError(f"no migrations in {FOLDER}")
    return revision


def current(database: Database) -> str | None:
    """The revision that the database is at; None for an empty one."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def is_at_head(database: Database) -> bool:
    return current(database) == head()


def upgrade(database: Database) -> None:
    """Brings the database to head. Several processes may call it at once: one migrates, the others wait and find it done."""
    with database.write() as session:
        if database.dialect == "postgresql":
            session.execute(sa.text("SELECT pg_advisory_xact_lock(4726180211)"))
        config = _config()
        config.attributes["connection"] = session.connection()
        command.upgrade(config, "head")
        session.commit()
