"""Kernels are tried once on a device before they are relied on: what they may raise there, and what their values are."""

import logging
import subprocess
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch


@cache
def kernel_faults() -> tuple[type[Exception], ...]:
    """The exceptions by which kernels of torch and Triton fail to compile or start. A lack of memory is one too: catch it before."""
    # Triton has a C compiler build what starts a kernel, which fails as a process where Python's headers are not installed.
    known: tuple[type[Exception], ...] = (RuntimeError, TypeError, ValueError, ImportError, OSError, subprocess.SubprocessError)
    if find_spec("triton") is None:
        return known
    errors: Any = import_module("triton.errors")
    return (*known, errors.TritonError)


def fault_of(error: Callable[[], float], *, tolerance: float) -> str | None:
    """Why a kernel is not to be used, for a message; None if `error`, which tries it, raises nothing and is within `tolerance`."""
    try:
        with torch.inference_mode(False):  # whoever asks first may be in it, and what it forbids, gradients, is tried too
            found = error()
    except torch.OutOfMemoryError:
        raise
    except kernel_faults() as problem:
        return first_line(problem)
    return None if found <= tolerance else f"its values are {found:.2g} off"


def passes(error: Callable[[], float], *, tolerance: float, otherwise: str) -> bool:
    """Whether a kernel may be used (`fault_of`); if not, one line says `otherwise`, what is done without it, and why."""
    fault = fault_of(error, tolerance=tolerance)
    if fault is not None:
        logging.getLogger(__name__).warning("%s (%s)", otherwise, fault)
    return fault is None


def first_line(problem: Exception) -> str:
    """What went wrong, for a message of one line."""
    return str(problem).strip().partition("\n")[0] or type(problem).__name__
