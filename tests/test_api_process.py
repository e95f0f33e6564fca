"""What holds for the process of the API as a whole."""

import platform
import subprocess
import sys

import pytest

COUNT_POOLS = """
import ctypes, threading
from app.api_process import share_free_memory

if {shares}:
    share_free_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(8)

def allocate():
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
told = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, ctypes.c_void_p(told))
libc.fclose(ctypes.c_void_p(told))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have one pool anyway, or tell nothing of it")
@pytest.mark.parametrize(("shares", "is_one"), [(True, True), (False, False)])
def test_threads_share_one_pool_of_free_memory(shares: bool, is_one: bool) -> None:
    command = [sys.executable, "-c", COUNT_POOLS.format(shares=shares)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert (told.count("<heap nr=") == 1) == is_one, told


COUNT_FAULTS = """
import resource
from app.api_process import share_free_memory

if {keeps}:
    share_free_memory()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"." * (40 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep it")
@pytest.mark.parametrize(("keeps", "is_kept"), [(True, True), (False, False)])
def test_memory_of_a_large_body_is_there_for_the_next_one(keeps: bool, is_kept: bool) -> None:
    command = [sys.executable, "-c", COUNT_FAULTS.format(keeps=keeps)]
    faults = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    assert (faults < 10) == is_kept, faults
