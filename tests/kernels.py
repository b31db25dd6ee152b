"""Where kernels of our own can be tested: on a CUDA device, or where Triton is installed in its interpreter, with TRITON_INTERPRET=1."""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
needs_kernels = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device, or Triton with TRITON_INTERPRET=1, and there is neither"
)


def _read_bounds_of_loops() -> None:
    """Lets loops go up to what a kernel has read: the interpreter holds it in an array of one, which numpy no longer takes for a number."""
    interpreter: Any = import_module("triton.runtime.interpreter")
    patch = interpreter._patch_lang_tensor

    def patch_further(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_further


if INTERPRETED:
    _read_bounds_of_loops()
