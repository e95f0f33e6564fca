"""What is installed without the dev extra is all that the parts need: a user's environment, and the image's, has no more."""

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TAKEN_WHERE_IT_IS = {"greenlet"}
"""SQLAlchemy imports it if it finds it, and only its asyncio half needs it; here Playwright has brought it."""


def test_what_runs_imports_only_what_is_installed_with_it() -> None:
    """Whatever a part imports follows from the dependencies of pyproject.toml; the broker's transport is imported late, by name."""
    script = (
        "import sys, app.main, app.cli, workers.celery_app, kombu.transport.redis, app.lstm; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    owners, installed = packages_distributions(), find_closure() | {"engram"}
    imported = {name: {canonicalize_name(owner) for owner in owners[name]} for name in done.stdout.split() if name in owners}
    installed |= TAKEN_WHERE_IT_IS
    assert {name: found for name, found in imported.items() if not found & installed} == {}  # a namespace has several owners


def find_closure() -> set[str]:
    """Names of all distributions that the dependencies of pyproject.toml bring along, extras followed."""
    waiting = [Requirement(text) for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]
    seen: set[tuple[str, str]] = set()
    while waiting:
        one = waiting.pop()
        for extra in ("", *sorted(one.extras)):
            key = (canonicalize_name(one.name), extra)
            if key in seen:
                continue
            seen.add(key)
            for text in requires(one.name) or []:
                child = Requirement(text)
                if child.marker is None or child.marker.evaluate({"extra": extra}):
                    waiting.append(child)
    return {name for name, _ in seen}
