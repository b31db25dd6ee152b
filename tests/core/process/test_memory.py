"""Freed memory stays in the process where glibc would return it."""

import platform
import subprocess
import sys

import pytest

# 64 blocks of 8 MiB are far above the usual mmap threshold: each would be mapped, and unmapped when it is freed.
SCRIPT = """
import ctypes, resource, sys
from core.process.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.mallopt(-3, 128 * 1024) if sys.argv[1] == "fixed" else None  # otherwise glibc adapts by itself
size = 8 * 2**20
for _ in range(4):
    blocks = [libc.malloc(size) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        libc.free(block)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):
    blocks = [libc.malloc(size) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    ended = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(ended.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc's thresholds are glibc's")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    kept, returned = page_faults("keep"), page_faults("fixed")
    assert kept < returned / 10


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from core.process.memory import keep_freed_memory

    opened: list[str | None] = []
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", opened.append)
    keep_freed_memory()
    assert opened == []
