"""`engram sbom`: what is installed here that this version stands on, as CycloneDX, for whoever has to know of every part."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import __version__

if TYPE_CHECKING:
    from importlib.metadata import Distribution

commands = typer.Typer()
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?[^;]*(?:;(.*))?$")


@commands.command("sbom")
def print_sbom(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, which it is anyway.")] = True,
) -> None:
    """Print the software bill of materials (CycloneDX 1.6, JSON): every package that this installation stands on, with its version and licence."""
    from app.cli.output import print_json

    print_json(make_sbom())


def make_sbom() -> dict[str, Any]:
    """The document. Only what Engram needs, directly or through others, is in it, as it is installed here."""
    extras = collect("engram")
    from importlib.metadata import distribution

    parts = {name: distribution(name) for name in sorted(extras)}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "engram", "version": __version__, "bom-ref": "engram"}},
        "components": [describe(one) for name, one in parts.items() if name != "engram"],
        "dependencies": [
            {
                "ref": to_ref(one),
                "dependsOn": sorted({to_ref(parts[each]) for each in list_needs(one, extras[name]) if each in parts}),
            }
            for name, one in parts.items()
        ],
    }


def collect(root: str) -> dict[str, set[str]]:
    """{name: extras asked of it} of what `root` needs and what is installed of it, itself included."""
    from importlib.metadata import PackageNotFoundError, distribution

    found: dict[str, set[str]] = {}
    waiting: list[tuple[str, set[str]]] = [(root, set())]
    while waiting:
        name, extras = waiting.pop()
        if name in found and extras <= found[name]:
            continue
        try:
            needs = list_needs(distribution(name), extras)
        except PackageNotFoundError:
            continue  # for another platform or Python
        found[name] = found.get(name, set()) | extras
        waiting += needs.items()
    return found


def list_needs(one: "Distribution", extras: set[str]) -> dict[str, set[str]]:
    """{package: its extras} that the distribution names; of the optional ones those of `extras`. Other conditions (platform, Python) are
    not judged here: what they leave out is not installed."""
    needs: dict[str, set[str]] = {}
    for line in one.requires or ():
        match = REQUIREMENT.match(line)
        if match is None:
            continue
        wanted = re.findall(r"""extra\s*==\s*["']([^"']+)["']""", match[3] or "")
        if not wanted or extras & set(wanted):
            needs.setdefault(normalise(match[1]), set()).update(
                part.strip() for part in (match[2] or "").split(",") if part.strip()
            )
    return needs


def describe(one: "Distribution") -> dict[str, Any]:
    name = normalise(one.metadata["Name"])
    licence = next(iter(one.metadata.get_all("License-Expression") or ()), "") or next(
        (line.rpartition(" :: ")[2] for line in one.metadata.get_all("Classifier") or () if line.startswith("License ::")), ""
    )
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": to_ref(one),
        "name": name,
        "version": one.version,
        "purl": to_ref(one),
    }
    if licence:
        component["licenses"] = [{"license": {"name": licence}}]
    return component


def to_ref(one: "Distribution") -> str:
    name = normalise(one.metadata["Name"])
    return "engram" if name == "engram" else f"pkg:pypi/{name}@{one.version}"


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
