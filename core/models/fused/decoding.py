"""What is fused further where a few tokens go through a model without gradients: there a kernel takes longer to start than to run.

The kernels of `core.models.fused.layers` stay in use for everything else, and where one of these fails.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from core.models.fused.rotations import rotated_by_halves
from core.process.layers import layer_lists
from core.trees.trial import passes

FEW = 4096
"""Tokens of a call up to which it counts as small."""
_TOLERANCE = 1e-5


class Carrying(nn.Module):
    """A layer that can leave its last sum to the norm at the start of the layer after it (`carried_sums`)."""


@contextmanager
def carried_sums(model: nn.Module) -> Generator[None]:
    """Context in which each layer adds what its MLP gives in one kernel with the first norm of the next layer. Without gradients."""
    pairs = [pair for layers in layer_lists(model) for pair in pairwise(layers)]
    followed = [pair for pair in pairs if all(isinstance(layer, Carrying) for layer in pair)]
    try:
        for layer, following in followed:
            vars(layer)["following"] = following  # as an attribute it would become a part of the layer, with weights to save
        yield
    finally:
        for layer, following in followed:
            vars(layer).pop("following", None)
            vars(following).pop("carried", None)


def carry(layer: nn.Module, hidden: Tensor, normed: Tensor) -> None:
    """Leaves a sum and its norm to the layer that will be called with the sum."""
    vars(layer)["carried"] = hidden, normed


def carried(layer: nn.Module, hidden: Tensor) -> Tensor | None:
    """The norm of the hidden states that the layer is called with, if the layer before has left it."""
    left: tuple[Tensor, Tensor] | None = vars(layer).pop("carried", None)
    return left[1] if left is not None and left[0] is hidden else None


def rotates_pair(q: Tensor, k: Tensor) -> bool:
    """Whether queries and keys, (B, heads, N, D), are to be rotated in one kernel: on a GPU, few, without gradients."""
    few = q.shape[0] * q.shape[2] <= FEW and q.dtype == k.dtype and q.shape[::2] == k.shape[::2]
    return few and not torch.is_grad_enabled() and _works("rotations of queries and keys take two kernels", _rotation_error, q.device)


def gates_by_row(gate: Tensor, up: Tensor) -> bool:
    """Whether the parts of a wider product are to be read where they lie: on a GPU, without gradients."""
    parts = not gate.is_contiguous() and gate.stride(-1) == up.stride(-1) == 1 and gate.shape == up.shape and gate.dtype == up.dtype
    return parts and not torch.is_grad_enabled() and _works("parts of merged products are copied", _gate_error, gate.device)


@cache
def _works(otherwise: str, error: Callable[[torch.device], float], device: torch.device) -> bool:
    """Tries a kernel once; a failure is told."""
    with torch.autocast(device.type, enabled=False):
        return passes(lambda: error(device), tolerance=_TOLERANCE, otherwise=f"{otherwise}, slower: the kernel for one fails")


def _rotation_error(device: torch.device) -> float:
    from core.models.fused.kernels import rotated_pair

    draw = torch.Generator().manual_seed(0)
    # Queries and keys as they come out of a merged product: (B, N, heads, D), side by side.
    heads = torch.randn(2, 5, 9, 32, generator=draw).to(device).transpose(1, 2)
    q, k = heads[:, :6], heads[:, 6:]
    cos, sin = (torch.randn(2, 5, 32, generator=draw).to(device) for _ in range(2))
    expected = [rotated_by_halves(x, cos, sin) for x in (q, k)]
    return _largest_error(rotated_pair(q, k, cos, sin), expected)


def _gate_error(device: torch.device) -> float:
    from core.models.fused.kernels import gated_silu_by_row

    gate, up = torch.randn(1, 3, 2 * 1500, generator=torch.Generator().manual_seed(0)).to(device).split(1500, -1)
    return _largest_error([gated_silu_by_row(gate, up)], [silu(gate) * up])


@torch.no_grad()
def _largest_error(found: list[Tensor] | tuple[Tensor, ...], expected: list[Tensor]) -> float:
    """Relative to the largest value; infinite where one is not finite."""
    errors = [(a.float() - b.float()).abs().max() / b.float().abs().max() for a, b in zip(found, expected, strict=True)]
    return torch.stack(errors).nan_to_num(nan=float("inf")).max().item()
