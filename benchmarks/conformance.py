"""The live service against its own OpenAPI document, by schemathesis: every operation, all phases, stateful links included.

    pip install schemathesis        # into an environment of its own; --tool says where
    python -m benchmarks.conformance --tool /path/to/schemathesis [--examples 30] [--seconds 580] [--open] [--database postgresql://...]

Starts `engram serve` in a folder of its own with a dataset, a model and a version, and with a key unless --open. Beside the tool's own
verdict, which may be read in the folder, it prints how many cases there were, how many answers were a 5xx, and whether the service lives.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
SMALL = {"ENGRAM_MAX_NETWORK_WEIGHTS": "200000", "ENGRAM_MAX_TRAINING_SECONDS": "20", "ENGRAM_MAX_HORIZON": "1000"}
"""A schema allows trainings of hours, and there are hundreds."""
AIR = (ROOT / "examples" / "air_passengers.csv").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default="schemathesis")
    parser.add_argument("--examples", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=580.0)
    parser.add_argument("--port", type=int, default=8300)
    parser.add_argument("--open", action="store_true")
    parser.add_argument("--database", default="")
    parser.add_argument("--broker", default="")
    parser.add_argument("--phases", default="examples,coverage,fuzzing,stateful")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="engram-conformance-"))
    environment = {
        **os.environ,
        "ENGRAM_DATA_DIR": str(folder / "data"),
        "ENGRAM_LOG_FORMAT": "json",
        "ENGRAM_LOG_LEVEL": "debug",
    }
    environment["ENGRAM_KEY_PEPPER"] = "for the conformance run alone, and long enough"
    environment |= SMALL
    environment |= {"ENGRAM_DATABASE_URL": options.database, "ENGRAM_BROKER_URL": options.broker}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "service.log").open("w") as log:
        engram = [sys.executable, "-m", "app.cli"]
        service = subprocess.Popen(
            [*engram, "serve", f"--port={options.port}"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{options.port}"
            training, headers = fill(url), {}
            if not options.open:
                headers = {"Authorization": f"Bearer {make_key(environment)}"}
            run(options, folder, url, headers, training)
            alive = httpx.get(f"{url}/health/ready", timeout=60).status_code
        finally:
            service.terminate()
            service.wait(120)
    report(folder, alive)


def make_key(environment: dict[str, str]) -> str:
    """For everything, of the service with this environment."""
    command = [sys.executable, "-m", "app.cli", "keys", "create", "benchmark", "--scopes=admin"]
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=-1, text=True, check=True).stdout.strip()


def fill(url: str) -> str:
    """A dataset, and a model that has learned from it and forecast once: the first forecast of a process loads torch, for which the
    tool's ten seconds for each answer are not meant on a busy machine. Gives the training's id."""
    deadline = time.monotonic() + 120
    with httpx.Client(base_url=url, timeout=60) as http:
        while time.monotonic() < deadline:
            try:
                if http.get("/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.3)
        http.post("/v1/datasets/air/observations", content=AIR, headers={"Content-Type": "text/csv"}).raise_for_status()
        body = {"dataset": "air", "horizon": 3, "fit": {"max_steps": 20}}
        training = str(http.post("/v1/models/air/trainings", json=body).raise_for_status().json()["id"])
        while http.get(f"/v1/trainings/{training}").json()["status"] in ("queued", "running"):
            time.sleep(0.3)
        http.post("/v1/models/air/forecasts", json={}).raise_for_status()
    return training


def run(options: argparse.Namespace, folder: Path, url: str, headers: dict[str, str], training: str) -> None:
    """The tool itself, with all checks."""
    document = httpx.get(f"{url}/openapi.json", timeout=60).json()
    (folder / "openapi.json").write_text(json.dumps(document))
    command = [
        options.tool,
        "--config-file",
        str(ROOT / "benchmarks" / "schemathesis.toml"),
        "run",
        "openapi.json",
        f"--url={url}",
    ]
    command += [
        f"--max-examples={options.examples}",
        f"--phases={options.phases}",
        f"--max-time={options.seconds:.0f}",
        "--checks=all",
    ]
    command += ["--continue-on-failure", "--request-timeout=60", "--suppress-health-check=all"]
    command += [f"--exclude-operation-id={find_operation(document, options.open)}"]
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}"]
    hooks = {"SCHEMATHESIS_HOOKS": "benchmarks.conformance_hooks", "PYTHONPATH": str(ROOT), "CONFORMANCE_TRAINING": training}
    with (folder / "schemathesis.log").open("w") as log:
        subprocess.run(command, cwd=folder, env={**os.environ, **hooks}, stdout=log, stderr=log, check=False)


def find_operation(document: dict[str, Any], is_open: bool) -> str:
    """The id of the operation that is left out, since it would end the run for all that follows: of an open service the first key, which
    closes it; of the other the end of a key, which may be the run's own. Each is part of the other run."""
    found = document["paths"]["/v1/keys"]["post"] if is_open else document["paths"]["/v1/keys/{prefix}"]["delete"]
    return str(found["operationId"])


def report(folder: Path, alive: int) -> None:
    said = (folder / "schemathesis.log").read_text(errors="replace")
    lines = (folder / "service.log").read_text(errors="replace").splitlines()  # a training that failed has a status too
    answers = [found[1] for line in lines if '"event": "request"' in line and (found := re.search(r'"status": (\d{3})', line))]
    failures = re.findall(r"\d+ (?:unique )?failures?.*|No issues found.*", said)
    print(f"{folder}: {said[said.rfind('Test cases') :].splitlines()[:2]}, {failures[-1:]}")
    print(f"answers: {len(answers)}, 5xx: {sum(status >= '500' for status in answers)}; the service lives: {alive == 200}")


if __name__ == "__main__":
    main()
