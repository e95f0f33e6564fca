"""Models, versions, aliases and artifacts as rows. The only seam where artifacts could move to an object storage."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import __version__
from app.database import utc_now
from app.errors import ArtifactCorrupt, NotFound, VersionServes
from app.tables import Alias, Artifact, BacktestWindow, Dataset, Model, Series, Training, Version

CHAMPION = "champion"
"""The alias that serves."""
ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class KeptWindow:
    """One forecast of a backtest: `actual` [horizon] (NaN: missing), `quantiles` [horizon, Q], beside the series it is of."""

    series_id: int
    cutoff_step: int
    actual: np.ndarray
    quantiles: np.ndarray


def find_model(session: Session, workspace_id: int, name: str) -> Model | None:
    return session.scalar(sa.select(Model).where(Model.workspace_id == workspace_id, Model.name == name))


def get_model(session: Session, workspace_id: int, name: str) -> Model:
    model = find_model(session, workspace_id, name)
    if model is None:
        raise NotFound(
            f"there is no model {name!r}; its first training creates it: POST /v1/models/{name}/trainings", model=name
        )
    return model


def list_models(session: Session, workspace_id: int, *, after: str | None, limit: int) -> Sequence[Model]:
    query = sa.select(Model).where(Model.workspace_id == workspace_id).order_by(Model.name).limit(limit)
    return session.scalars(query if after is None else query.where(Model.name > after)).all()


def delete_model(session: Session, model: Model) -> None:
    """With its versions, aliases and trainings."""
    session.delete(model)
    session.flush()


def get_version(session: Session, model: Model, number: int) -> Version:
    version = session.scalar(sa.select(Version).where(Version.model_id == model.id, Version.number == number))
    if version is None:
        raise NotFound(
            f"model {model.name!r} has no version {number}; GET /v1/models/{model.name}/versions lists them",
            model=model.name,
            version=number,
        )
    return version


def find_alias(session: Session, model: Model, alias: str) -> Version | None:
    query = sa.select(Version).join(Alias, Alias.version_id == Version.id)
    return session.scalar(query.where(Alias.model_id == model.id, Alias.name == alias))


def get_by_alias(session: Session, model: Model, alias: str) -> Version:
    version = find_alias(session, model, alias) if ALIAS.fullmatch(alias) else None
    if version is None:
        raise NotFound(f"model {model.name!r} has no alias {alias!r}", model=model.name, alias=alias)
    return version


def list_versions(session: Session, model: Model, *, before: int | None, limit: int) -> Sequence[Version]:
    """Newest first."""
    query = sa.select(Version).where(Version.model_id == model.id).order_by(Version.number.desc()).limit(limit)
    return session.scalars(query if before is None else query.where(Version.number < before)).all()


def read_aliases(session: Session, model_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """{model id: {alias: version number}}."""
    query = sa.select(Alias.model_id, Alias.name, Version.number).join(Version, Version.id == Alias.version_id)
    aliases: dict[int, dict[str, int]] = {model_id: {} for model_id in model_ids}
    for model_id, name, number in session.execute(query.where(Alias.model_id.in_(model_ids)).order_by(Alias.name)):
        aliases[model_id][name] = number
    return aliases


def read_newest_numbers(session: Session, model_ids: Sequence[int]) -> dict[int, int]:
    """{model id: number of its newest version}; a model without one is left out."""
    query = sa.select(Version.model_id, sa.func.max(Version.number)).where(Version.model_id.in_(model_ids))
    return dict(session.execute(query.group_by(Version.model_id)).all())


def set_alias(session: Session, model: Model, alias: str, version: Version) -> None:
    """Moves the alias, or makes it. The model's row is locked, so that two moves at once come one after the other."""
    _lock(session, model)
    if session.scalar(sa.select(Version.id).where(Version.id == version.id)) is None:
        raise NotFound(
            f"version {version.number} of model {model.name!r} was just deleted", model=model.name, version=version.number
        )
    row = session.scalar(sa.select(Alias).where(Alias.model_id == model.id, Alias.name == alias))
    if row is None:
        row = Alias(workspace_id=model.workspace_id, model_id=model.id, name=alias)
        session.add(row)
    row.version_id = version.id
    row.updated_at = utc_now()
    session.flush()


def delete_version(session: Session, model: Model, version: Version) -> None:
    _lock(session, model)
    query = sa.select(Alias.name).where(Alias.version_id == version.id).order_by(Alias.name)
    aliases = session.scalars(query).all()
    if aliases:
        raise VersionServes(
            f"version {version.number} of model {model.name!r} serves as {', '.join(aliases)}; "
            f"move the alias first: PUT /v1/models/{model.name}/aliases/{aliases[0]}",
            model=model.name,
            version=version.number,
            aliases=list(aliases),
        )
    session.delete(version)
    session.flush()


def remove_old_versions(session: Session, *, kept: int, limit: int) -> int:
    """Removes up to `limit` versions of one model, oldest first: neither of its `kept` newest nor one that an alias points to.

    Their trainings keep config, data and metrics. The number removed: 0 when no model has any.
    """
    place = sa.func.row_number().over(partition_by=Version.model_id, order_by=Version.number.desc()).label("place")
    ranked = sa.select(Version.id, Version.model_id, Version.number, place).subquery()
    aliased = sa.exists().where(Alias.version_id == ranked.c.id)
    surplus = sa.select(ranked.c.id).where(ranked.c.place > kept, ~aliased).order_by(ranked.c.number).limit(limit)
    model_id = session.scalar(sa.select(ranked.c.model_id).where(ranked.c.place > kept, ~aliased).limit(1))
    if model_id is None:
        return 0
    model = session.get(Model, model_id)
    if model is None:
        return 0
    _lock(session, model)  # from here on no alias of this model moves
    ids = session.scalars(surplus.where(ranked.c.model_id == model_id)).all()
    session.execute(sa.delete(Version).where(Version.id.in_(ids)).execution_options(synchronize_session=False))
    return len(ids)


def register_version(
    session: Session,
    training: Training,
    *,
    artifact: bytes,
    result: dict[str, Any],
    windows: Sequence[KeptWindow],
    promote: str,
) -> Version:
    """The next version of the training's model, with artifact, metrics and kept backtest; moves `champion` as `promote` says.

    `result` holds config, data, metrics and warnings as they stand in the version's row. Promotion `if_better` wants
    metrics["champion"]: the serving version's scores on the same windows.
    """
    model = session.get_one(Model, training.model_id)
    _lock(session, model)
    model.newest_number += 1
    model.dataset_id = training.dataset_id
    model.horizon = training.request["horizon"]
    version = Version(
        workspace_id=model.workspace_id,
        model_id=model.id,
        dataset_id=training.dataset_id,
        training_id=training.id,
        number=model.newest_number,
        horizon=training.request["horizon"],
        cutoff_step=training.cutoff_step,
        code_version=__version__,
        created_at=utc_now(),
        **result,
    )
    session.add(version)
    session.flush()
    session.add(
        Artifact(
            workspace_id=model.workspace_id,
            version_id=version.id,
            sha256=hashlib.sha256(artifact).hexdigest(),
            size_bytes=len(artifact),
            data=artifact,
        )
    )
    _keep_windows(session, version, windows)
    if _deserves_promotion(result["metrics"], promote, has_champion=find_alias(session, model, CHAMPION) is not None):
        set_alias(session, model, CHAMPION, version)
    session.flush()
    return version


def read_artifact(session: Session, version_id: int) -> bytes:
    """The artifact's bytes, checked against their sha256."""
    query = sa.select(Artifact.sha256, Artifact.data, Version.number, Model.name).where(Artifact.version_id == version_id)
    query = query.join(Version, Version.id == Artifact.version_id).join(Model, Model.id == Version.model_id)
    row = session.execute(query).one_or_none()
    if row is None:
        raise NotFound("the version was deleted while it was asked for")
    found = hashlib.sha256(row.data).hexdigest()
    if found != row.sha256:
        raise ArtifactCorrupt(
            f"the artifact of version {row.number} of model {row.name!r} is damaged: its sha256 should be {row.sha256} and is {found}; "
            f"move the alias to another version (PUT /v1/models/{row.name}/aliases/champion), and train again",
            model=row.name,
            version=row.number,
            expected=row.sha256,
            found=found,
        )
    return bytes(row.data)


def get_artifact(session: Session, version: Version) -> Artifact:
    """What is known of the artifact, without its bytes."""
    return session.scalars(sa.select(Artifact).where(Artifact.version_id == version.id)).one()


def read_backtest(
    session: Session, version: Version, *, series: Sequence[str], after: int | None, limit: int
) -> list[tuple[int, str, int, np.ndarray]]:
    """(id, series, cutoff step, float32 [horizon, 1 + Q]: the actual, NaN where missing, before the quantiles), oldest id first."""
    query = sa.select(BacktestWindow.id, Series.name, BacktestWindow.cutoff_step, BacktestWindow.data)
    query = query.join(Series, Series.id == BacktestWindow.series_id).where(BacktestWindow.version_id == version.id)
    if series:
        query = query.where(Series.name.in_([name for name in series if "\0" not in name]))
    if after is not None:
        query = query.where(BacktestWindow.id > after)
    rows = session.execute(query.order_by(BacktestWindow.id).limit(limit))
    return [(id_, name, step, np.frombuffer(data, "<f4").reshape(version.horizon, -1)) for id_, name, step, data in rows]


def read_datasets(session: Session, dataset_ids: Sequence[int]) -> dict[int, Dataset]:
    return {row.id: row for row in session.scalars(sa.select(Dataset).where(Dataset.id.in_(dataset_ids)))}


def _lock(session: Session, model: Model) -> None:
    """One at a time per model: numbers follow each other, and an alias never points at a version being deleted."""
    session.refresh(model, with_for_update=True)


def _keep_windows(session: Session, version: Version, windows: Sequence[KeptWindow]) -> None:
    """Of series that are still there: one may have been erased while the training learned from it."""
    ids = {window.series_id for window in windows}
    there = set(session.scalars(sa.select(Series.id).where(Series.id.in_(ids)).with_for_update(read=True, key_share=True)))
    rows = [
        {
            "workspace_id": version.workspace_id,
            "version_id": version.id,
            "series_id": window.series_id,
            "cutoff_step": window.cutoff_step,
            "data": np.column_stack([window.actual, window.quantiles]).astype("<f4").tobytes(),
        }
        for window in windows
        if window.series_id in there
    ]
    if rows:
        session.execute(sa.insert(BacktestWindow), rows)


def _deserves_promotion(metrics: dict[str, Any], promote: str, *, has_champion: bool) -> bool:
    if promote == "always" or (promote == "if_better" and not has_champion):
        return True
    if promote == "never" or not metrics.get("champion"):
        return False
    new, serving = metrics["backtest"]["wql"], metrics["champion"]["wql"]
    return new is not None and serving is not None and new < serving
