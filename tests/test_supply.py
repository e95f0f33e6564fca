"""What the service is made of, and that no secret came along: the bill of materials, the pinned versions, the files themselves."""

import json
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

from typer.testing import CliRunner

from app.cli import cli
from app.cli.sbom import normalise

ROOT = Path(__file__).parents[1]
SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a key of this service": r"engram_[a-z0-9]{9}_(?!A{43})[A-Za-z0-9_-]{43}",
    "a cloud's key": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[A-Za-z0-9_-]{35}\b",
    "a token": r"\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{50,}|glpat-[\w-]{20}|xox[abprs]-[\w-]{10,}|sk-[A-Za-z0-9]{32,}|npm_[A-Za-z0-9]{36})",
    "a signed token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
    "a password in a URL": r"\b(?:postgres(?:ql)?|redis|https?|amqp)://[^\s:/@\"'<>$]+:(?!(?:password|PASSWORD|secret|\.\.\.|\*+|%|\$|\{))[^\s@/\"'<>$]{6,}@",
}


def test_no_file_holds_a_secret() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    assert len(files) > 200
    found = []
    for path in files:
        if path.is_file() and path.suffix not in (".safetensors", ".png"):
            text = path.read_text(encoding="utf-8", errors="ignore")
            found += [f"{path.relative_to(ROOT)}: {what}" for what, pattern in SECRETS.items() if re.search(pattern, text)]
    assert not found


def test_the_search_would_find_one() -> None:
    for text in (
        "-----BEGIN RSA " + "PRIVATE KEY",
        "engram_a1b2c3d4e_" + "x" * 43,
        "postgresql://me:hunter" + "2222@host/db",
        "AKIA" + "A" * 16,
    ):
        assert any(re.search(pattern, text) for pattern in SECRETS.values()), text


def test_the_bill_of_materials_names_what_is_installed_and_how_it_hangs_together() -> None:
    done = CliRunner().invoke(cli, ["sbom"])
    bill = json.loads(done.stdout)
    assert (bill["bomFormat"], bill["specVersion"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "1.6", "engram")
    parts = {one["name"]: one for one in bill["components"]}
    installed = {normalise(one.metadata["Name"]): one.version for one in distributions()}
    assert {"torch", "fastapi", "starlette", "sqlalchemy", "kombu", "pydantic-core", "uvloop", "psycopg-binary"} <= parts.keys()
    assert not {"pytest", "mypy", "ruff", "hypothesis"} & parts.keys()
    assert all(installed[name] == one["version"] for name, one in parts.items())
    assert sum("licenses" in one for one in parts.values()) > len(parts) * 0.8
    refs = {one["bom-ref"] for one in bill["components"]} | {"engram"}
    needs = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
    assert needs.keys() == refs
    assert {each for one in needs.values() for each in one} == refs - {"engram"}


def test_every_part_is_pinned_to_what_is_tested() -> None:
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    versions = {normalise(name): version for name, version in pinned.items()}
    bill = json.loads(CliRunner().invoke(cli, ["sbom"]).stdout)
    loose = {
        one["name"]: one["version"]
        for one in bill["components"]
        if versions.get(one["name"]) != one["version"].partition("+")[0]
    }
    assert not loose
