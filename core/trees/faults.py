"""What a kernel may raise where it cannot run."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any


@cache
def kernel_faults() -> tuple[type[Exception], ...]:
    """The exceptions by which kernels of torch and Triton fail to compile or start. A lack of memory is one too: catch it before."""
    known: tuple[type[Exception], ...] = (RuntimeError, TypeError, ValueError, ImportError, OSError)
    if find_spec("triton") is None:
        return known
    errors: Any = import_module("triton.errors")
    return (*known, errors.TritonError)


def first_line(problem: Exception) -> str:
    """What went wrong, for a message of one line."""
    return str(problem).strip().partition("\n")[0] or type(problem).__name__
