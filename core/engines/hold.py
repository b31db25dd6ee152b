"""The formats that weights are held in during training."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from core.config import Dtype
from core.process.layers import layers_of


def held_dtypes(module: nn.Module, dtype: Dtype) -> Iterator[tuple[Tensor, torch.dtype]]:
    """The floating-point weights of a module with the format to hold each in: fp32, in which small steps are not lost, but for the
    matrices of frozen layers.

    These, such as a reference policy's, are of use in products alone, which are computed in `dtype`: converted before instead of in
    every product, they give the same to the last bit, in half the memory for bf16.
    """
    product = torch.bfloat16 if dtype == Dtype.bf16 else torch.float32
    inside = {part for layer in layers_of(module) for part in layer.modules()}
    for part in module.modules():
        is_matrix = part in inside and isinstance(part, nn.Linear)
        for weight in part.parameters(recurse=False):
            if weight.is_floating_point():
                yield weight, product if is_matrix and not weight.requires_grad else torch.float32


def hold_weights(module: nn.Module, dtype: Dtype) -> None:
    """Converts the weights of a module that is not sharded."""
    for weight, held in held_dtypes(module, dtype):
        weight.data = weight.data.to(held)
