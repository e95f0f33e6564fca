"""Runs migrations over a connection that the caller gives, or over ENGRAM_DATABASE_URL's."""

import sqlalchemy as sa
from alembic import context

from app import tables
from app.database import Database, UtcDateTime
from app.settings import Settings


def render_item(kind: str, item: object, autogen: object) -> str | bool:
    """Our UTC type is written as its plain form: an old migration must not change when our class does."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=tables.Base.metadata,
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
