"""What a batch of requests means, in one snapshot: which versions, which series, their contexts, each with one SELECT for all of them.

What is remembered from earlier batches is checked against the database each time: by its stamp, which says that nothing at all was
committed since, or by the revision of the series.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.database import Database, NotAtAGlanceError
from app.datasets import service as datasets
from app.datasets.store import SeriesRow
from app.registry import service as registry
from app.serving import service
from app.serving.batch import Replies, Task
from app.serving.cache import Forecasters, Kept
from app.serving.service import Contexts, Learned, Serving, Target
from app.serving.wanted import Key, Wanted
from app.settings import Settings
from app.tables import Alias

if TYPE_CHECKING:
    from app.lstm import Forecaster

MAX_REMEMBERED = 20_000
"""Versions, models and series whose rows are remembered."""
CONTEXT_OVERHEAD = 300
"""Bytes that a kept context takes beside its values."""

V = TypeVar("V")


class Stamped(Generic[V]):
    """What was read while the database bore a stamp: as long as it bears the same, it would be read again."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[int, V]] = {}

    def find(self, key: Hashable, stamp: int | None) -> V | None:
        found = self._known.get(key)
        return found[1] if found is not None and found[0] == stamp else None

    def put(self, key: Hashable, stamp: int | None, value: V) -> None:
        if stamp is None:
            return
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[key] = stamp, value


@dataclass(slots=True)
class Draft:
    """A request of which it is known so far what stands here."""

    wanted: Wanted
    target: Target
    rows: list[SeriesRow] = field(default_factory=list)
    next_cursor: str | None = None
    made_by: Key = ()
    forecaster: "Forecaster | None" = None
    contexts: Contexts | None = None

    @property
    def names(self) -> list[str] | None:
        return self.wanted.body.series

    @property
    def length(self) -> int:
        """How many steps of a context the version looks at."""
        return self.forecaster.context_length_max if self.forecaster is not None else 0


class Reader:
    """One per process, for one thread at a time."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._forecasters = Forecasters(settings.forecaster_cache_bytes)
        self._servings: Stamped[Serving] = Stamped()
        self._series: Stamped[SeriesRow] = Stamped()
        self._learned: dict[int, Learned] = {}
        self._contexts: Kept[tuple[int, int], tuple[int, np.ndarray]] = Kept(settings.context_cache_bytes)

    def read(self, gathered: Sequence[Wanted], replies: Replies) -> list[Task]:
        """The tasks to compute. What needs no computing, a refusal or an answer that still stands, goes to `replies`."""
        with self._database.read() as session:  # which takes no connection before its first statement
            return self._read(session, gathered, replies)

    def read_at_a_glance(self, gathered: Sequence[Wanted], replies: Replies) -> list[Task] | None:
        """The same, if little has to be asked of the database, nothing loaded, and compiled code is to predict; else None."""
        try:
            with self._database.glance() as glance:
                tasks = self._read(cast(Session, glance), gathered, replies)
        except NotAtAGlanceError:
            return None
        return tasks if all(task.forecaster.is_compiled for task in tasks if len(task)) else None

    def _read(self, session: Session, gathered: Sequence[Wanted], replies: Replies) -> list[Task]:
        drafts: list[Draft] = []
        for wanted in gathered:
            try:
                drafts.append(Draft(wanted, self._resolve(session, wanted)))
            except NotAtAGlanceError:
                raise
            except Exception as error:  # noqa: BLE001 - of this request, and not of the others
                replies.append((wanted, error))
        named = self._find_named(session, drafts)
        drafts = _sift(drafts, replies, lambda draft: self._find_series(session, draft, named))
        drafts = [draft for draft in drafts if not _recall(draft, replies)]
        drafts = _sift(drafts, replies, lambda draft: self._begin(session, draft))
        contexts = self._gather_contexts(session, drafts)
        drafts = _sift(drafts, replies, lambda draft: self._set_contexts(session, draft, contexts))
        return [
            Task(draft.wanted, draft.target, draft.contexts, draft.forecaster, draft.next_cursor, draft.made_by)
            for draft in drafts
            if draft.contexts is not None
        ]

    def warm(self) -> None:
        """Loads what serves now of the models that were used lately."""
        used = self._forecasters.list_used()
        if not used:
            return
        with self._database.read() as session:
            query = sa.select(Alias.model_id, Alias.version_id).where(Alias.model_id.in_(used), Alias.name == registry.CHAMPION)
            for model_id, version_id in session.execute(query).all():
                if used[model_id] != version_id:
                    self._load(session, version_id)
                    self._forecasters.note_version(model_id, version_id)

    def _resolve(self, session: Session, wanted: Wanted) -> Target:
        key = (wanted.workspace_id, wanted.model, wanted.body.version)
        serving = self._servings.find(key, wanted.stamp)
        if serving is None:
            serving = service.find_serving(session, *key)
            self._servings.put(key, wanted.stamp, serving)
        learned = self._learned.get(serving.version_id)
        if learned is None:
            if len(self._learned) >= MAX_REMEMBERED:
                self._learned.clear()
            learned = self._learned[serving.version_id] = service.read_learned(session, serving.version_id)
        return service.set_target(wanted.model, serving, learned, wanted.body, wanted.cutoff_place)

    def _find_named(self, session: Session, drafts: Sequence[Draft]) -> dict[tuple[int, str], SeriesRow]:
        """By dataset and name, the series that the requests name; those that are not there are left out."""
        found: dict[tuple[int, str], SeriesRow] = {}
        sought: dict[int, dict[str, int | None]] = {}
        for draft in drafts:
            dataset_id, stamp = draft.target.serving.dataset_id, draft.wanted.stamp
            for name in draft.names or ():
                row = self._series.find((dataset_id, name), stamp)
                if row is None:
                    sought.setdefault(dataset_id, {})[name] = stamp
                else:
                    found[dataset_id, name] = row
        for dataset_id, names in sought.items():
            for row in datasets.find_series(session, dataset_id, names):
                self._series.put((dataset_id, row.name), names[row.name], row)
                found[dataset_id, row.name] = row
        return found

    def _find_series(self, session: Session, draft: Draft, named: dict[tuple[int, str], SeriesRow]) -> None:
        """The series to forecast, each once and ordered by name, and by what the answer will be made. Raises NotFound."""
        wanted, serving = draft.wanted, draft.target.serving
        if wanted.body.context is None and draft.names is None:
            draft.rows = datasets.list_series(session, serving.dataset_id, "", wanted.after, wanted.limit)
            draft.next_cursor = wanted.to_cursor([row.name for row in draft.rows])
        elif draft.names is not None:
            datasets.check_found(draft.names, {name for name in draft.names if (serving.dataset_id, name) in named})
            draft.rows = [named[serving.dataset_id, name] for name in sorted(set(draft.names))]
        service.check_size(draft.target, len(wanted.body.context or draft.rows), self._settings)
        draft.made_by = (serving, *((row.id, row.revision) for row in draft.rows))

    def _begin(self, session: Session, draft: Draft) -> None:
        """Loads what predicts, which says how long the contexts are to be."""
        serving = draft.target.serving
        self._forecasters.note_use(serving.model_id, serving.version_id)
        if draft.rows or draft.wanted.body.context is not None:
            draft.forecaster = self._load(session, serving.version_id)

    def _gather_contexts(self, session: Session, drafts: Sequence[Draft]) -> dict[tuple[int, int], np.ndarray]:
        """By series and length, the contexts [L] up to the last value of all series: remembered if they are of the same revision."""
        contexts: dict[tuple[int, int], np.ndarray] = {}
        missing: dict[int, dict[int, SeriesRow]] = {}
        for draft in drafts:
            for row in draft.rows if draft.target.cutoff_step is None else ():
                kept = self._contexts.find((row.id, draft.length))
                if kept is not None and kept[0] == row.revision:
                    contexts[row.id, draft.length] = kept[1]
                elif row.cutoff_step is not None:
                    missing.setdefault(draft.length, {})[row.id] = row
        for length, by_id in missing.items():
            rows = list(by_id.values())
            for row, values in zip(rows, datasets.read_contexts(session, rows, length, None)[0], strict=True):
                contexts[row.id, length] = values
                self._contexts.put((row.id, length), (row.revision, values.copy()), 8 * length + CONTEXT_OVERHEAD)
        return contexts

    def _set_contexts(self, session: Session, draft: Draft, gathered: dict[tuple[int, int], np.ndarray]) -> None:
        target, rows, given, length = draft.target, draft.rows, draft.wanted.body.context, draft.length
        if given is not None:
            draft.contexts = service.place_contexts(target.grid, given, length)
            return
        if target.cutoff_step is not None:
            draft.contexts, known = service.read_contexts(session, target, rows, length)
        else:
            known = [row.cutoff_step is not None for row in rows]
            there = [row for row in rows if row.cutoff_step is not None]
            values = np.array([gathered[row.id, length] for row in there]).reshape(len(there), length)  # [B, L]
            cutoffs = np.array([row.cutoff_step for row in there], np.int64)
            draft.contexts = Contexts([row.name for row in there], values, cutoffs)
        if draft.names is not None:
            service.check_known(target, rows, known)

    def _load(self, session: Session, version_id: int) -> "Forecaster":
        return self._forecasters.get(version_id, lambda: registry.read_artifact(session, version_id))


def _sift(drafts: Sequence[Draft], replies: Replies, step: Callable[[Draft], None]) -> list[Draft]:
    """Takes one step with each; those that may go on. A refusal is of that request, and not of the others."""
    good = []
    for draft in drafts:
        try:
            step(draft)
        except NotAtAGlanceError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its request is told
            replies.append((draft.wanted, error))
        else:
            good.append(draft)
    return good


def _recall(draft: Draft, replies: Replies) -> bool:
    """Whether the answer that was kept still stands: made by the same version and the same revisions of the same series."""
    kept = draft.wanted.kept
    if kept is None or draft.wanted.body.context is not None or kept.made_by != draft.made_by:
        return False
    replies.append((draft.wanted, draft.wanted.finish(kept.content, draft.next_cursor, draft.made_by)))
    return True
