"""The experts of a mixture under autocast: their products in its format, as those of all other layers are.

transformers multiplies all experts of a layer in one grouped product, which autocast does not reach. With weights in fp32 it takes the
activations to fp32, and so most of a mixture's work would be done in fp32, several times slower than asked for.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations import moe

IMPLEMENTATION = "grouped_mm"
"""What transformers calls it, and takes where nobody asks for another."""


def let_autocast_reach_experts() -> None:
    """From now on grouped products of experts run in the format of autocast where it is on; without it nothing changes."""
    moe.ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _grouped)


class _InFormat:
    """A layer of experts whose weights read as in another format; their gradients are those of the weights themselves."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        self._layer, self._dtype = layer, dtype

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._layer, name)
        return value.to(self._dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _grouped(layer: nn.Module, hidden_NH: Tensor, experts_NK: Tensor, weights_NK: Tensor) -> Tensor:
    kind = hidden_NH.device.type
    asked: Any = _InFormat(layer, torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else layer
    return moe.grouped_mm_experts_forward(asked, hidden_NH, experts_NK, weights_NK)
