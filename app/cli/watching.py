"""Following a training: its events as they come, over connections that may break, and one sentence at its end."""

import json
import time
from collections.abc import Iterator
from typing import Any

from app.cli.connection import Service
from app.cli.failure import Failure
from app.cli.output import make_bar, say, show

ENDED = ("succeeded", "failed", "cancelled")
PATIENCE_SECONDS = 60.0
"""How long a service that is away is waited for, once it has answered."""
PAUSE_SECONDS = 1.0
QUIET_SECONDS = 60.0
"""Without an event or a sign of life the connection is taken to be broken."""
LONELY_SECONDS = 3.0
"""A training that is still queued after this long may have no worker."""


def watch_training(service: Service, training: str) -> dict[str, Any]:
    """The training as it ended. A bar on stderr shows phase, progress, loss and the time left, where there is a terminal."""
    from rich.progress import BarColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %  {task.fields[about]}"))
    found: dict[str, Any] = service.get(f"/v1/trainings/{training}")
    try:
        with make_bar(*columns) as bar:
            task = bar.add_task(found["status"], total=1.0, about="")
            for kind, data in _follow(service, training, found["status"]):
                if kind == "progress":
                    bar.update(task, description=data["phase"], completed=data["fraction"], about=_describe_progress(data))
    except KeyboardInterrupt as error:
        raise Failure(
            f"training {training} goes on without you: engram trainings watch {training} follows it again, "
            f"engram trainings cancel {training} ends it"
        ) from error
    ended: dict[str, Any] = service.get(f"/v1/trainings/{training}")
    return ended


def describe_end(service: Service, training: dict[str, Any]) -> str:
    """The version that a training made: whether it serves, and how good it is beside seasonal naive."""
    model, version = training["model"], training["version"]
    serving = service.get(f"/v1/models/{model}")["aliases"].get("champion")
    serves = "and serves" if serving == version else f"but version {serving} serves"
    lines = [f"{model} has version {version}, {serves}: {_describe_skill(training['metrics'] or {})}"]
    lines += [f"warning: {warning}" for warning in training["warnings"]]
    return "\n".join(lines)


def _describe_skill(metrics: dict[str, Any]) -> str:
    skill = metrics.get("skill")
    if skill is None:
        return "it could not be scored beside seasonal naive"
    errors = f"(MASE {show(metrics['backtest']['mase'])} against {show(metrics['baseline']['mase'])})"
    windows = f"over {metrics['n_windows']} backtest window{'s' if metrics['n_windows'] != 1 else ''}"
    if skill >= 0:
        return f"its error is {skill:.0%} smaller than seasonal naive's {errors}, {windows}"
    return f"its error is {-skill:.0%} larger than seasonal naive's {errors}, {windows}; it may need more data"


def _describe_progress(data: dict[str, Any]) -> str:
    parts = [f"step {data['step']} of {data['steps']}"]
    if data.get("loss") is not None:
        parts.append(f"loss {data['loss']:.4f}")
    if data["fraction"] > 0:
        parts.append(f"{data['seconds'] * (1 / data['fraction'] - 1):.0f} s left")
    return ", ".join(parts)


def _follow(service: Service, training: str, status: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, data) of each event, each once, up to the last one."""
    seen = 0
    heard_at = time.monotonic()
    if status == "queued":
        time.sleep(min(LONELY_SECONDS, PAUSE_SECONDS))
        _warn_if_lonely(service, training)
    while True:
        try:
            for number, kind, data in _read_events(service, training, seen):
                seen, heard_at = number, time.monotonic()
                yield kind, data
                if kind in ENDED:
                    return
            if service.get(f"/v1/trainings/{training}")["status"] in ENDED:
                return
            heard_at = time.monotonic()
        except Failure as failure:
            if not failure.may_pass or time.monotonic() - heard_at > PATIENCE_SECONDS:
                hint = f"the training goes on; engram trainings watch {training} follows it again"
                raise Failure(f"{failure.detail}; {hint}", failure.problem) from failure
        time.sleep(PAUSE_SECONDS)


def _read_events(service: Service, training: str, after: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number, kind, data) of the events behind `after`, from one connection (HTML Living Standard, "Server-sent events")."""
    import httpx

    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    timeout = httpx.Timeout(QUIET_SECONDS, connect=10.0)
    with service.stream("GET", f"/v1/trainings/{training}/events", headers=headers, timeout=timeout) as answer:
        event: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(":")
                event[name] = value.removeprefix(" ")
            elif "data" in event and "event" in event:
                yield int(event["id"]), event["event"], json.loads(event["data"])
                event = {}


def _warn_if_lonely(service: Service, training: str) -> None:
    found = service.get(f"/v1/trainings/{training}")
    if found["status"] == "queued" and not service.get("/v1/system")["workers"]:
        say("the training waits: no worker is running; `engram serve` or `engram worker` starts one")
