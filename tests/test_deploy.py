"""What the image, compose and Kubernetes run is what there is: settings, commands, routes, versions; and nothing runs with more than it needs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from app import __version__
from app.cli import cli
from app.settings import Settings

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
UID = 10001
SETTINGS = {f"ENGRAM_{name.upper()}" for name in Settings.model_fields}
PARTS = {name: service for name, service in COMPOSE["services"].items() if name not in ("postgres", "redis")}
MANIFESTS = [
    document
    for path in sorted(KUBERNETES.rglob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]
WORKLOADS = [document for document in MANIFESTS if document["kind"] in ("Deployment", "Job")]
COMMANDS = [service["command"] for service in PARTS.values()]
COMMANDS += [service["healthcheck"]["test"][2:] for service in PARTS.values() if "test" in service.get("healthcheck", {})]
COMMANDS += [container["args"] for workload in WORKLOADS for container in workload["spec"]["template"]["spec"]["containers"]]


def containers(workload: dict[str, Any]) -> list[dict[str, Any]]:
    return list(workload["spec"]["template"]["spec"]["containers"])


def test_every_variable_is_a_setting() -> None:
    """But for the three that compose itself reads."""
    files = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *KUBERNETES.rglob("*.yaml")]
    named = {name for path in files for name in re.findall(r"ENGRAM_[A-Z_]+", path.read_text())}
    assert named - SETTINGS == {"ENGRAM_IMAGE", "ENGRAM_CUDA_IMAGE", "ENGRAM_PUBLISH"}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_is_one_of_ours(command: list[str]) -> None:
    """Parsed by the command line itself, which then is not run: names, options and values."""
    group = get_command(cli)
    found = group.get_command(group.make_context("engram", [], resilient_parsing=True), command[0])  # type: ignore[attr-defined]
    assert found is not None, command
    found.make_context(command[0], command[1:])


def test_probes_ask_for_routes_that_there_are() -> None:
    routes = {"/health/live", "/health/ready"}
    assert routes <= set(Path(ROOT / "app" / "operation.py").read_text().split('"'))
    (api,) = [one for workload in WORKLOADS for one in containers(workload) if one["name"] == "api"]
    assert {api[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == routes
    ports = {port["name"]: port["containerPort"] for port in api["ports"]}
    assert ports == {"http": Settings.model_fields["port"].default}
    assert COMPOSE["services"]["api"]["ports"][0].endswith(f":{ports['http']}")
    assert f"EXPOSE {ports['http']}\n" in DOCKERFILE


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_has_no_more_than_it_needs(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["logging"]["options"]["max-size"]
    assert "privileged" not in service


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in ("POSTGRES_PASSWORD", "ENGRAM_KEY_PEPPER"):
        assert re.findall(rf"\$\{{{name}([^}}]*)\}}", text) == [":?make one with openssl rand -hex 32"] * (
            2 if name == "POSTGRES_PASSWORD" else 1
        )
    assert "Secret" not in {document["kind"] for document in MANIFESTS}


def test_a_part_may_stop_by_itself() -> None:
    """Both wait longer than the grace time before they kill."""
    grace_seconds = Settings.model_fields["grace_seconds"].default
    for service in PARTS.values():
        assert int(service["stop_grace_period"].removesuffix("s")) > grace_seconds
    for workload in WORKLOADS:
        assert workload["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30) > grace_seconds


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload["metadata"]["name"])
def test_a_pod_has_no_more_than_it_needs(workload: dict[str, Any]) -> None:
    pod = workload["spec"]["template"]["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": UID,
        "runAsGroup": UID,
        "fsGroup": UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    for container in containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}


def test_the_image_runs_as_its_user() -> None:
    assert f"USER {UID}:{UID}\n" in DOCKERFILE
    assert f"--uid {UID} " in DOCKERFILE
    assert 'ENTRYPOINT ["engram"]' in DOCKERFILE


def test_every_path_of_a_kustomization_is_there() -> None:
    for path in KUBERNETES.rglob("kustomization.yaml"):
        document = yaml.safe_load(path.read_text())
        for entry in document.get("resources", []) + document.get("components", []):
            assert (path.parent / entry).exists(), (path, entry)


def test_images_carry_this_version() -> None:
    for path in (ROOT / "Dockerfile", ROOT / "docker-compose.yml", KUBERNETES / "overlays/example/kustomization.yaml"):
        tags = re.findall(r"(?:engram:|newTag: )(\d+\.\d+\.\d+)", path.read_text())
        assert set(tags) == {__version__}, path
