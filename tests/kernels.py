"""Where kernels of our own can be tested: on a CUDA device, or where Triton is installed in its interpreter, with TRITON_INTERPRET=1."""

import os
from importlib.util import find_spec

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
needs_kernels = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device, or Triton with TRITON_INTERPRET=1, and there is neither"
)
