"""The number format that matrix products run in: bf16 under autocast, or the format of the weights."""

import torch

from core.config import Dtype


def autocast(device: torch.device, dtype: Dtype) -> torch.autocast:
    """The context in which matrix products run in bf16 where `dtype` asks for it; for any other dtype it changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == Dtype.bf16)


def without_autocast(device: torch.device | None = None) -> torch.autocast:
    """The context in which models compute in the format of their weights, even inside a trainer's autocast.

    `device` is where they lie: by default the GPU if there is one, else the CPU.
    """
    kind = device.type if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(kind, enabled=False)
