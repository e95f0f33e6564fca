"""Names of processes that outlive them, so that others can tell whether what one holds is still held. Standard library only."""

import os
import platform
from pathlib import Path

PROC = Path("/proc")


def name_process() -> str:
    """This process for as long as the machine runs: boot, process namespace, number, and start time (a number comes again)."""
    _, started = _look_up(os.getpid())
    return f"{_place()}/{os.getpid()}/{started}"


def is_running(name: str) -> bool | None:
    """Whether the process of that name still runs. None: it belongs to another boot, machine or container, which cannot be seen here."""
    process = name.removeprefix(f"{_place()}/")
    number, _, started = process.partition("/")
    if process == name or not number.isdecimal():
        return None
    state, found = _look_up(int(number))
    return found == started and state not in ("", "Z", "X")  # a zombie has ended, whether or not its parent looked


def _place() -> str:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return f"{platform.node()}/"


def _look_up(number: int) -> tuple[str, str]:
    """State and start time of a process; both empty when there is none."""
    try:
        # the name stands in brackets and may hold anything, brackets and spaces too: what counts begins after the last one
        fields = (PROC / str(number) / "stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    except OSError:
        return ("", "") if PROC.joinpath("self").exists() else _look_up_without_proc(number)


def _look_up_without_proc(number: int) -> tuple[str, str]:
    """The same where there is no /proc (macOS): the start time stays unknown, so a number that came again is taken for the old one."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return "", ""
    except PermissionError:
        pass  # it is there, and somebody else's
    return "R", ""
