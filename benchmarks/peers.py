"""The same model behind LitServe, BentoML and MLflow, beside ours: python -m benchmarks.peers --python PATH [--seconds 5] [--rounds 5]

PATH is a Python that has what Engram needs and `litserve bentoml mlflow-skinny pandas`, as an environment of its own: their pins are not
ours. Each serves the artifact of a training by defaults as torch modules, one worker, batches of up to 16 where it can batch; ours is
`engram api`. They take turns before the same client; printed is ours over theirs, from an inline context of 168 values to 48 x 7 quantiles.
All servers with all of their processes are held to one core, the client has another, where there are two.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.serving import BODIES, CONTEXT, TORCH_MODEL, make_contexts, make_values, prepare, run_ours
from benchmarks.side_by_side import ROOT, Measured, Requests, find_port, request, serve

LITSERVE = """
import sys
import litserve as ls
class Api(ls.LitAPI):
    def setup(self, device):
        import torch_model
        self.forecast = torch_model.forecast
    def decode_request(self, request): return request["values"]
    def batch(self, inputs): return inputs
    def predict(self, contexts): return self.forecast(contexts)
    def unbatch(self, answers): return answers
    def encode_response(self, answer): return {"quantiles": answer}
if __name__ == "__main__":
    ls.LitServer(Api(max_batch_size=16, batch_timeout=0.001), accelerator="cpu", workers_per_device=1).run(
        port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="error")
"""
BENTOML = """
import bentoml
@bentoml.service(workers=1)
class Model:
    def __init__(self):
        import torch_model
        self._forecast = torch_model.forecast
    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=1000)
    def forecast(self, contexts: list[list[float]]) -> list[dict]:
        return self._forecast(contexts)
    @bentoml.api
    def alone(self, contexts: list[list[float]]) -> list[dict]:
        return self._forecast(contexts)
"""
MLFLOW = """
import mlflow.pyfunc
class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        import torch_model
        self._forecast = torch_model.forecast
    def predict(self, context, model_input, params=None):
        return self._forecast(model_input)
if __name__ == "__main__":
    mlflow.pyfunc.save_model("mlflow_model", python_model=Model())
"""
WANTED = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        measure(folder, arguments.python, arguments.seconds, arguments.rounds)


def measure(folder: Path, python: str, seconds: float, rounds: int) -> None:
    for file, text in (("torch_model", TORCH_MODEL), ("lit", LITSERVE), ("bento", BENTOML), ("flow", MLFLOW)):
        (folder / f"{file}.py").write_text(text)
    artifact = {"BENCH_ARTIFACT": str(folder / "artifact"), "PATH": f"{Path(python).parent}:{os.environ['PATH']}"}
    subprocess.run(
        [python, "flow.py"], cwd=folder, env={**os.environ, **artifact, "PYTHONPATH": f"{ROOT}:{folder}"}, check=True
    )
    rows = [row.tolist() for row in make_values(BODIES, CONTEXT)]
    ports = {name: find_port() for name in ("LitServe", "BentoML", "MLflow")}
    commands = {
        "LitServe": [python, "lit.py", str(ports["LitServe"])],
        "BentoML": [python, "-m", "bentoml", "serve", "bento:Model", "--port", str(ports["BentoML"])],
        "MLflow": [python, "-m", "mlflow", "models", "serve", "-m", "mlflow_model", "--env-manager", "local", "--workers", "1"],
    }
    commands["MLflow"] += ["--port", str(ports["MLflow"])]
    paths = {"LitServe": "/predict", "BentoML": "/forecast", "MLflow": "/invocations"}
    bodies = {
        "LitServe": [json.dumps({"values": row}).encode() for row in rows],
        "BentoML": [json.dumps({"contexts": [row]}).encode() for row in rows],
        "MLflow": [json.dumps({"inputs": [row]}).encode() for row in rows],
    }
    contexts = [request("POST", "/v1/models/m/forecasts", body) for body in make_contexts()]
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    with ExitStack() as stack:
        ours = stack.enter_context(run_ours(folder))
        pids = {
            name: stack.enter_context(serve(command, ports[name], "/", folder, **artifact)).pid
            for name, command in commands.items()
        }
        os.sched_setaffinity(0, cores[1:] or cores)
        for clients in (16, 1):
            if clients == 1:
                paths["BentoML"] = "/alone"  # it would wait for others to come
            found = Measured(seconds, rounds)
            theirs = {
                name: (
                    (ports[name], pids[name]),
                    take_turns([request("POST", paths[name], body) for body in bodies[name]]),
                    clients,
                )
                for name in commands
            }
            found.run({"ours": (ours, take_turns(contexts), clients), **theirs})
            print(f"\n{clients} clients: ours {statistics.median(found.rates['ours']):.0f} requests/s")
            for name in commands:
                rate = statistics.median(found.rates[name])
                print(f"  {name:9s} {rate:6.0f} requests/s; ours over it {found.ratio('ours', name)}, wanted {WANTED}")


def take_turns(requests: list[bytes]) -> Requests:
    return lambda n: requests[n % len(requests)]


if __name__ == "__main__":
    main()
