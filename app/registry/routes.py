"""The door to models, versions, aliases, artifacts and kept backtests."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Path, Query, Response
from sqlalchemy.orm import Session

from app import contract
from app.calendar import Grid
from app.dependencies import AuditNeeded, ModelName, PageNeeded, ReadCaller, ReadSession, TrainCaller, WriteSession
from app.registry import service
from app.registry.schemas import (
    AliasInput,
    AliasOutput,
    ArtifactOutput,
    BacktestItem,
    BacktestList,
    ModelList,
    ModelOutput,
    VersionList,
    VersionOutput,
)
from app.tables import Dataset, Model, Training, Version

router = APIRouter(prefix="/v1/models", tags=["models"])

VersionNumber = Annotated[int, Path(ge=1, le=2**31, description="The version's number.")]
AliasName = Annotated[str, Path(pattern=rf"^{service.ALIAS.pattern}$", description="`champion` is what serves.")]


@router.get("")
def list_models(session: ReadSession, caller: ReadCaller, page: PageNeeded) -> ModelList:
    models = service.list_models(session, caller.workspace_id, after=page.after(str), limit=page.limit)
    return ModelList(items=_describe_models(session, models), next_cursor=page.to_cursor([model.name for model in models]))


@router.get("/{model}")
def get_model(session: ReadSession, caller: ReadCaller, model: ModelName) -> ModelOutput:
    return _describe_models(session, [service.get_model(session, caller.workspace_id, model)])[0]


@router.delete("/{model}", status_code=204)
def delete_model(session: WriteSession, caller: TrainCaller, audit: AuditNeeded, model: ModelName) -> None:
    """With its versions and trainings; a training under way stops."""
    service.delete_model(session, service.get_model(session, caller.workspace_id, model))
    audit.note(session, caller, "delete model", model)
    session.commit()


@router.get("/{model}/versions")
def list_versions(session: ReadSession, caller: ReadCaller, model: ModelName, page: PageNeeded) -> VersionList:
    """Newest first."""
    found = service.get_model(session, caller.workspace_id, model)
    versions = service.list_versions(session, found, before=page.after(int), limit=page.limit)
    items = _describe_versions(session, found, versions)
    return VersionList(items=items, next_cursor=page.to_cursor([version.number for version in versions]))


@router.get("/{model}/versions/{version}")
def get_version(session: ReadSession, caller: ReadCaller, model: ModelName, version: VersionNumber) -> VersionOutput:
    found = service.get_model(session, caller.workspace_id, model)
    return _describe_versions(session, found, [service.get_version(session, found, version)])[0]


@router.delete("/{model}/versions/{version}", status_code=204)
def delete_version(
    session: WriteSession, caller: TrainCaller, audit: AuditNeeded, model: ModelName, version: VersionNumber
) -> None:
    """409 while an alias points at it."""
    found = service.get_model(session, caller.workspace_id, model)
    service.delete_version(session, found, service.get_version(session, found, version))
    audit.note(session, caller, "delete version", model, str(version))
    session.commit()


@router.get(
    "/{model}/versions/{version}/artifact",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}, 304: {"description": "The bytes are the ones you have."}},
)
def get_artifact(
    session: ReadSession,
    caller: ReadCaller,
    model: ModelName,
    version: VersionNumber,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """safetensors, with the configuration in its metadata; `ETag` is the sha256 of the bytes."""
    found = service.get_model(session, caller.workspace_id, model)
    row = service.get_version(session, found, version)
    etag = f'"{service.get_artifact(session, row).sha256}"'
    headers = {"ETag": etag}
    if if_none_match is not None and etag in [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f'attachment; filename="{model}-{version}.safetensors"'
    return Response(service.read_artifact(session, row.id), media_type="application/octet-stream", headers=headers)


@router.get("/{model}/versions/{version}/backtest")
def get_backtest(
    session: ReadSession,
    caller: ReadCaller,
    model: ModelName,
    version: VersionNumber,
    page: PageNeeded,
    series: Annotated[Sequence[str], Query(max_length=1000, description="Only these series.")] = (),
) -> BacktestList:
    """What was forecast at each cutoff beside what happened (kept for up to 200 series, evenly chosen)."""
    found = service.get_model(session, caller.workspace_id, model)
    row = service.get_version(session, found, version)
    grid = _grid_of(session.get_one(Dataset, row.dataset_id))
    levels: list[float] = row.config["quantile_levels"]
    items = []
    windows = service.read_backtest(session, row, series=series, after=page.after(int), limit=page.limit)
    for _, name, cutoff_step, values in windows:
        columns = values.astype(float)  # [H, 1 + Q]
        steps = np.arange(cutoff_step + 1, cutoff_step + 1 + len(columns))
        quantiles = {str(level): columns[:, 1 + index].tolist() for index, level in enumerate(levels)}
        items.append(
            BacktestItem(
                series=name,
                cutoff=grid.to_labels(np.array([cutoff_step]))[0],
                timestamps=list(grid.to_labels(steps)),
                actual=[None if np.isnan(value) else float(value) for value in columns[:, 0]],
                median=quantiles["0.5"],
                quantiles=quantiles,
            )
        )
    return BacktestList(items=items, next_cursor=page.to_cursor([window[0] for window in windows]))


ALIAS_LINKS = contract.link_to(
    "GET /v1/models/{model}",
    "GET /v1/models/{model}/versions/{version}",
    "POST /v1/models/{model}/forecasts",
    model="$request.path.model",
    version="$response.body#/version",
)
"""For `responses`: what an alias leads to."""


@router.put("/{model}/aliases/{alias}", responses={200: ALIAS_LINKS})
def set_alias(
    session: WriteSession, caller: TrainCaller, audit: AuditNeeded, model: ModelName, alias: AliasName, body: AliasInput
) -> AliasOutput:
    """Promotes or rolls back: the very next forecast is of that version."""
    found = service.get_model(session, caller.workspace_id, model)
    service.set_alias(session, found, alias, service.get_version(session, found, body.version))
    audit.note(session, caller, "move alias", model, alias, str(body.version))
    session.commit()
    return AliasOutput(model=model, alias=alias, version=body.version)


def _describe_models(session: Session, models: Sequence[Model]) -> list[ModelOutput]:
    aliases = service.read_aliases(session, [model.id for model in models])
    datasets = service.read_datasets(session, [model.dataset_id for model in models])
    newest = service.read_newest_numbers(session, [model.id for model in models])
    return [
        ModelOutput(
            name=model.name,
            dataset=datasets[model.dataset_id].name,
            horizon=model.horizon,
            aliases=aliases[model.id],
            newest_version=newest.get(model.id),
            created_at=model.created_at,
        )
        for model in models
    ]


def _describe_versions(session: Session, model: Model, versions: Sequence[Version]) -> list[VersionOutput]:
    aliases = service.read_aliases(session, [model.id])[model.id]
    datasets = service.read_datasets(session, [version.dataset_id for version in versions])
    return [_describe_version(session, model, version, aliases, datasets[version.dataset_id]) for version in versions]


def _describe_version(
    session: Session, model: Model, version: Version, aliases: dict[str, int], dataset: Dataset
) -> VersionOutput:
    artifact = service.get_artifact(session, version)
    training = session.get(Training, version.training_id) if version.training_id else None
    cutoff: Any = _grid_of(dataset).to_labels(np.array([version.cutoff_step]))[0]
    return VersionOutput(
        model=model.name,
        version=version.number,
        dataset=dataset.name,
        horizon=version.horizon,
        cutoff=cutoff,
        aliases=[alias for alias, number in aliases.items() if number == version.number],
        metrics=version.metrics,
        warnings=version.warnings,
        config=version.config,
        data=version.data,
        artifact=ArtifactOutput(sha256=artifact.sha256, size_bytes=artifact.size_bytes),
        training=training.public_id if training else None,
        code_version=version.code_version,
        created_at=version.created_at,
    )


def _grid_of(dataset: Dataset) -> Grid:
    """A dataset that was learned from has a freq."""
    return Grid(dataset.freq or "step", dataset.phase_us or 0, dataset.time_zone)
