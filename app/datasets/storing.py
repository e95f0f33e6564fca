"""What becomes of the body of a POST of observations, by whichever way it came in: checked, and then stored in one transaction, with what
it costs and the key it may be sent again under."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app import faults, quotas
from app.combining import Combiner
from app.database import Database
from app.datasets import formats, ingest, service
from app.datasets.bounds import Bounds
from app.datasets.columns import ColumnOptions
from app.datasets.schemas import OnConflict, Receipt
from app.idempotency import Once
from app.security import Caller
from app.settings import Settings

COMBINED_BYTES = 16_384
"""A smaller body shares its transaction with others that come at the same time."""


USUAL_COLUMNS = ColumnOptions()


@dataclass(frozen=True, slots=True)
class Posted:
    """The request as far as it matters here; see the route."""

    dataset: str
    body: bytes
    content_type: str
    columns: ColumnOptions = USUAL_COLUMNS
    on_conflict: OnConflict = "replace"


def store(posted: Posted, caller: Caller, once: Once, database: Database, combiner: Combiner, settings: Settings) -> Receipt:
    """Blocks until it is on disk. Raises what is wrong with the observations, or what the workspace may not."""
    observations = formats.parse(posted.body, posted.content_type, posted.columns, posted.dataset, Bounds.of(settings))

    def write(session: Session) -> Receipt:
        first = once.find(session, caller.workspace_id)
        if first is not None:
            return Receipt.model_validate(first)
        held = service.open_dataset(session, caller.workspace_id, posted.dataset)
        receipt = ingest.upsert(session, held, observations, posted.on_conflict, settings.max_span_steps)
        quotas.charge_observations(session, settings, caller.workspace_id, len(posted.body))
        once.keep(session, caller.workspace_id, 200, receipt)
        faults.reach("write.flushed")
        return receipt

    with once.alone(caller.workspace_id):
        if len(posted.body) <= COMBINED_BYTES:
            receipt = combiner.run(write)
        else:
            with database.write() as session:
                receipt = write(session)
                session.commit()
    faults.reach("write.committed")
    return receipt
