"""Keeps freed memory in the process: a CPU training step otherwise returns and requests the same pages over and over."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_MMAP_LIMIT = 32 * 2**20  # the most that glibc accepts
_TRIM_LIMIT = 2**30


def keep_freed_memory() -> None:
    """Raises glibc's thresholds for returning memory to the kernel; on other systems it does nothing.

    Small models spend up to a third of a CPU step in page faults without it.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _MMAP_LIMIT)
        libc.mallopt(_TRIM_THRESHOLD, _TRIM_LIMIT)
