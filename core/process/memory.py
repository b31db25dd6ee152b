"""The memory of this process: what is freed is kept, and how much is free."""

import ctypes
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # every command imports this module, and most need no torch
    import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_MMAP_LIMIT = 32 * 2**20  # the most that glibc accepts
_TRIM_LIMIT = 2**30


def keep_freed_memory() -> None:
    """Raises glibc's thresholds for returning memory to the kernel; on other systems it does nothing.

    A CPU training step otherwise returns and requests the same pages over and over: small models spend up to a third of it in page
    faults.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _MMAP_LIMIT)
        libc.mallopt(_TRIM_THRESHOLD, _TRIM_LIMIT)


def free_bytes(device: "torch.device") -> int | None:
    """The memory that is free for this process on a device; None where the system does not tell.

    Of a computer's own, the equal share of each process that torchrun started on it.
    """
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    file = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", file.read_text(encoding="utf-8")) if file.is_file() else None
    return None if found is None else int(found[1]) * 1024 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
