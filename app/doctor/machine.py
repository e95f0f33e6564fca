"""Checks of this machine and of the settings: nothing here asks the database."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from app.database import find_sqlite_file
from app.doctor.finding import Finding, fail, ok, warn
from app.lstm.compiled import load_library
from app.queue import broker_reachable
from app.settings import Settings
from app.sqlite_broker import find_path

LOW_BYTES = 2**30
"""Free space below which a disk is nearly full; a tenth of it is full."""
NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "gluster", "lustre", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse")
MOUNTS = Path("/proc/self/mountinfo")
GPU_NODE = Path("/dev/nvidiactl")
PROBE = "import json, torch; print(json.dumps([torch.__version__, torch.cuda.is_available()]))"
PROBE_SECONDS = 60.0


def check_data_dir(settings: Settings) -> Finding:
    """Whether the embedded engines can write where they are to."""
    folder = settings.data_dir.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        cure = f"make it a folder that uid {os.getuid()} may write to, or name another with ENGRAM_DATA_DIR"
        return fail("data-dir", f"{folder} cannot be written to: {error}", cure)
    return ok("data-dir", f"{folder} can be written to")


def check_disk(settings: Settings) -> Finding:
    """Whether the disk of the data folder has room."""
    folder = settings.data_dir.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    found = f"{free / 2**30:.1f} GiB are free under {existing}"
    cure = "delete old versions (DELETE /v1/models/{model}/versions/{n}), enlarge the disk, or move ENGRAM_DATA_DIR"
    if free < LOW_BYTES / 10:
        return fail("disk", found, cure)
    return warn("disk", found, cure) if free < LOW_BYTES else ok("disk", found)


def check_broker(settings: Settings) -> Finding:
    """Whether hints reach the workers. A queue's file that is not there yet is not made to see whether it could be."""
    if settings.is_queue_embedded and not find_path(settings.broker_url).exists():
        if check_data_dir(settings).level == "ok":
            return ok("broker", "the embedded queue's file is made when a part starts")
    elif broker_reachable(settings):
        return ok("broker", f"{settings.broker_kind} answers")
    if settings.is_queue_embedded:
        return fail(
            "broker", "the embedded queue's file cannot be opened", "see data-dir above; or set ENGRAM_BROKER_URL to a Redis"
        )
    cure = "start it, or correct ENGRAM_BROKER_URL (redis://host:6379/0); until then trainings are accepted and wait"
    return fail("broker", f"{settings.broker_kind} does not answer within {settings.broker_timeout_seconds:g} s", cure)


def check_torch(_: Settings, interpreter: str = sys.executable) -> Finding:
    """Whether trainings can compute, and on the GPU where there is one."""
    probe = subprocess.run([interpreter, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)  # noqa: S603 - a command of ours, without a shell
    if probe.returncode != 0:
        last = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
        return fail(
            "torch", f"it cannot be loaded: {last}", "install what pyproject.toml names: pip install -c constraints.txt -e ."
        )
    version, has_cuda = json.loads(probe.stdout)
    asked = os.environ.get("CUDA_VISIBLE_DEVICES", "") not in ("", "-1")
    if not has_cuda and (asked or GPU_NODE.exists()):
        why = "CUDA_VISIBLE_DEVICES names a GPU" if asked else f"{GPU_NODE} is there"
        cure = "install torch's CUDA build for this driver (nvidia-smi shows the driver's), or start workers with --queues cpu"
        return fail("torch", f"{why}, and torch {version} sees no CUDA", cure)
    return ok("torch", f"torch {version}, {'with' if has_cuda else 'without'} CUDA")


def check_compiled(_: Settings) -> Finding:
    """Whether forecasts are made by compiled code."""
    if load_library() is None:
        cure = "install a C compiler (gcc or clang), then install Engram again; without it everything works, slower"
        return warn("compiled", "forecasts are made by torch, at ten times the time for each", cure)
    return ok("compiled", "forecasts are made by compiled code")


def check_port(settings: Settings) -> Finding:
    """Whether the API could listen, or listens already."""
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if _is_engram({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port):  # noqa: S104 - looked up, not bound
                return ok("port", f"Engram answers at {host}:{port}")
            cure = "stop what listens there (ss -ltnp shows it), or take another: --port, ENGRAM_PORT"
            return fail("port", f"{host}:{port} cannot be listened on: {error}", cure)
    return ok("port", f"{host}:{port} is free")


def check_cores(settings: Settings) -> Finding:
    """Whether trainings at once would take turns on the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = int(value) if (value := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() else settings.training_threads
    found = f"{settings.worker_concurrency} trainings at once with {threads} threads each, on {cores} cores"
    if settings.worker_concurrency * threads > cores:
        cure = "lower ENGRAM_WORKER_CONCURRENCY or ENGRAM_TRAINING_THREADS (or OMP_NUM_THREADS, which goes before it)"
        return warn("cores", found, cure)
    return ok("cores", found)


def check_file_system(settings: Settings, mounts: Path = MOUNTS) -> Finding:
    """Whether SQLite's files lie where its locks work."""
    paths = []
    if (file := find_sqlite_file(settings.database_url)) is not None:
        paths.append(file)
    if settings.is_queue_embedded:
        paths.append(settings.data_dir)
    kinds = {kind for path in paths if (kind := find_file_system(path.absolute(), mounts)) is not None}
    if network := sorted(kind for kind in kinds if kind.startswith(NETWORK)):
        cure = "move ENGRAM_DATA_DIR to a local disk; to share it between hosts, use PostgreSQL and Redis"
        return fail("file-system", f"SQLite's files lie on {', '.join(network)}, whose locks do not hold", cure)
    return ok("file-system", f"local ({', '.join(sorted(kinds))})" if kinds else "nothing of SQLite's is used")


def find_file_system(path: Path, mounts: Path) -> str | None:
    """The type of the file system that `path` lies on, as Linux names it; None where that cannot be known."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    found = {Path(line.split()[4].replace("\\040", " ")): line.partition(" - ")[2].split()[0] for line in lines}
    return next((found[one] for one in (path, *path.parents) if one in found), None)


def _is_engram(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().read() == b'{"status":"live"}'
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
