"""The rules of the house that a machine can check; CONTRIBUTING.md says why they are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app import errors
from app.database import Base
from app.errors import EngramError
from app.main import create_app
from app.settings import Settings
from app.tables import Workspace

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("app", "workers", "migrations") for path in (ROOT / folder).rglob("*.py"))
MAX_LINES = 400
NO_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "base", "misc"}

NOT_BUILT_YET: set[tuple[str, str]] = set()
"""What docs/api.md promises and no route keeps yet. It may only shrink."""

WORDS = set(
    """
    series observation timestamp value dataset freq season length covariate feature static
    context horizon cutoff window quantile levels median loc scale backtest baseline skill
    training model version alias artifact forecast device status attempt attempts progress config metrics warnings problem
    workspace worker lease owner hinted request requested response event chunk channel revision grid step phase aggregate
    id name public number newest count missing first last seq kind data digest prefix scopes key sha256 code size
    description cancel lost wanted devices slots time zone removed
    totals most clock traceparent parent trial searching states fingerprint
    limits claimed day days body training audit entries actor action target
    at us bytes seconds created updated started finished expires revoked used seen
    workspaces datasets models versions trainings events artifacts aliases chunks workers schedulers housekeeping windows api keys idempotency
    """.split()  # noqa: SIM905 - words read better as words
)
"""What names of tables and columns are made of. A new word is a decision: one word per thing."""

NEVER = set(
    """
    table project metric record sample interval regressor lookback now split confidence mean
    job run task stage checkpoint file blob estimator instance
    """.split()  # noqa: SIM905
)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def list_errors(root: type[EngramError] = EngramError) -> list[type[EngramError]]:
    return [error for child in root.__subclasses__() for error in (child, *list_errors(child))]


def test_every_setting_is_documented_with_its_default_and_nothing_else_is() -> None:
    rows = re.findall(r"^\| `ENGRAM_(\w+)` \|(?: `(.*?)`)? \| (.+) \|$", read("docs/settings.md"), re.MULTILINE)
    fields = Settings.model_fields
    assert {name.lower(): default for name, default, _ in rows} == {name: str(field.default) for name, field in fields.items()}
    for name, _, meaning in rows:
        assert meaning.startswith(str(fields[name.lower()].description)), f"{name}: the page may say more, not something else"


def test_every_problem_is_documented_and_nothing_else_is() -> None:
    page = read("docs/problems.md")
    documented = re.findall(r"^### `([a-z-]+)` \((\d{3})\)\n\*\*When\.\*\* .+\n\*\*Do\.\*\* .+", page, re.MULTILINE)
    assert len(documented) == page.count("\n### "), "each problem has a line When and a line Do"
    assert sorted(documented) == sorted((error.slug, str(error.status)) for error in list_errors())


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    drawn = re.findall(r"^([│├└─ ]*)(\w+) +(\d{3}) +([a-z-]+)", errors.__doc__ or "", re.MULTILINE)
    found = [(len(branch) // 4, name, int(status), slug) for branch, name, status, slug in drawn]
    assert found == [(len(error.__mro__) - 4, error.__name__, error.status, error.slug) for error in list_errors()]


def test_names_of_tables_and_columns_are_words_of_the_house() -> None:
    assert not WORDS & NEVER
    assert Workspace.metadata is Base.metadata
    names = [table.name for table in Base.metadata.tables.values()]
    names += [column.name for table in Base.metadata.tables.values() for column in table.columns]
    unknown = {name: words for name in names if (words := set(name.split("_")) - WORDS)}
    assert not unknown, "a new word belongs on the list above, if it must be"


def test_no_file_is_long() -> None:
    long = {str(path.relative_to(ROOT)): lines for path in SOURCES if (lines := len(path.read_text().splitlines())) > MAX_LINES}
    assert not long


def test_modules_are_named_after_what_they_hold() -> None:
    assert not [str(path.relative_to(ROOT)) for path in SOURCES if {path.stem, path.parent.name} & NO_NAMES]


def test_nothing_is_left_to_be_done_in_the_code() -> None:
    marks = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert not found


def test_paths_are_those_of_the_contract() -> None:
    promised = {
        (method, re.sub(r"\{\w+\}", "{}", path))
        for method, path in re.findall(r"^\| ([A-Z]+) \| `(/[^`]*)` \|", read("docs/api.md"), re.MULTILINE)
    }
    paths = create_app(Settings()).openapi()["paths"]
    built = {(method.upper(), re.sub(r"\{\w+\}", "{}", path)) for path, methods in paths.items() for method in methods}
    assert not built & NOT_BUILT_YET, "these are built: take them off NOT_BUILT_YET"
    assert built | NOT_BUILT_YET == promised


def test_every_link_of_the_document_leads_to_an_operation_and_gives_what_its_path_needs() -> None:
    paths = create_app(Settings()).openapi()["paths"]
    links = [
        (name, link)
        for path in paths.values()
        for operation in path.values()
        for answer in operation["responses"].values()
        for name, link in answer.get("links", {}).items()
    ]
    for name, link in links:
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
        _, _, path, method = link["operationRef"].replace("~1", "\0").split("/")
        path = path.replace("\0", "/")
        assert method in paths[path], name
        assert {f"path.{parameter}" for parameter in re.findall(r"\{(\w+)\}", path)} == set(link["parameters"]), name
    assert len(links) > 20


@pytest.mark.parametrize("module", ["app.main", "app.cli", "workers.celery_app"])
def test_neither_the_api_nor_a_worker_loads_torch_at_its_start(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("module", ["workers.celery_app", "workers.scheduler"])
def test_a_worker_loads_nothing_that_it_does_not_work_with(module: str) -> None:
    """A worker that was killed is there again after as many seconds as its imports take."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}} & {{'fastapi', 'alembic', 'psycopg', 'polars', 'optuna', 'redis'}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
