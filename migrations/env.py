"""Runs migrations over a connection that the caller gives, or over ENGRAM_DATABASE_URL's."""

from typing import Any, Literal

import sqlalchemy as sa
from alembic import context

import app.tables  # noqa: F401 - fills Base.metadata
from app.database import Base, Database, UtcDateTime
from app.settings import Settings


def render_item(kind: str, item: Any, autogen: object) -> str | Literal[False]:
    """Our UTC type is written as its plain form: an old migration must not change when our class does."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
        render_item=render_item,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with Database(Settings().database_url).engine.connect() as own:
        run(own)
        own.commit()
