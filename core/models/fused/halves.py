"""Products of fp32 matrices by the matrix units of a GPU, nearly as exact as in fp32 and twice to three times as fast.

A number in fp32 is the sum of two in bf16, up to 2^-17 of itself. Of the four products of such parts the matrix units compute three,
with fp32 sums; the fourth is as small as what the parts leave out (Henry, Tang and Heinecke 2019, https://arxiv.org/abs/1904.06376).

Shapes: N rows of the first factor, K inner size, M columns of the second factor.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from core.trees.trial import passes

LEAST, MOST = 2**24, 2**28
"""Elements of a weight from which on it is worth its splitting, and up to which its parts take little memory, as much as itself."""
_ALIGNED = 8
"""What rows and columns of a weight are to be multiples of."""
_CAPABILITY = 8
"""From which on GPUs have matrix units for bf16."""
_TOLERANCE = 5e-5
"""Largest error relative to the largest value: bf16 alone is off by 2e-3, its halves by 5e-6, fp32 by 1e-6."""


class Halves(NamedTuple):
    """A matrix as the sum of two in bf16."""

    first: Tensor
    second: Tensor

    @property
    def T(self) -> "Halves":
        return Halves(self.first.T, self.second.T)


def halved(matrix: Tensor) -> Halves:
    """The parts of a matrix in fp32. What is not finite makes what is multiplied with it not finite."""
    first = matrix.bfloat16()
    return Halves(first, (matrix - first).bfloat16())


def product(a_NK: Halves, b_KM: Halves) -> Tensor:
    """Their product (N, M) in fp32."""
    out_NM = _product(a_NK.first, b_KM.first)
    out_NM += _product(a_NK.first, b_KM.second)
    out_NM += _product(a_NK.second, b_KM.first)
    return out_NM


def wide_product(a_NK: Halves, b_KM: Halves) -> Tensor:
    """The same for few K, where sums of whole products would cost more than products: all in one, with 3 K."""
    left, right = a_NK.T, b_KM
    return _product(torch.cat([left.first, left.first, left.second]).T, torch.cat([right.first, right.second, right.first]))


def _product(a_NK: Tensor, b_KM: Tensor) -> Tensor:
    if a_NK.is_cuda:
        return torch.mm(a_NK, b_KM, out_dtype=torch.float32)
    return a_NK.float() @ b_KM.float()  # as matrix units do: factors in 16 bits multiply exactly in fp32


def multiplies_by_halves(hidden_NH: Tensor, weight_VH: Tensor) -> bool:
    """Whether products with a weight are to be computed so: on a GPU, with a large weight in fp32, where they were seen to be exact."""
    if not hidden_NH.is_cuda or not _gains(weight_VH):
        return False
    return torch.cuda.get_device_capability(hidden_NH.device)[0] >= _CAPABILITY and _works(hidden_NH.device)


def _gains(weight_VH: Tensor) -> bool:
    whole = all(size % _ALIGNED == 0 for size in weight_VH.shape)  # others take slow kernels
    return whole and weight_VH.dtype == torch.float32 and LEAST <= weight_VH.numel() <= MOST


@cache
def _works(device: torch.device) -> bool:
    """Tries them once; a failure is told, and IEEE fp32 computes from then on."""
    otherwise = "heads compute in IEEE fp32, slower: by two parts in bf16 they fail"
    return passes(lambda: _error(device), tolerance=_TOLERANCE, otherwise=otherwise)


@torch.no_grad()
def _error(device: torch.device) -> float:
    """The largest error over the largest value, against fp64, of the three products of a head's two passes."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight, grad = (torch.randn(shape, generator=draw).to(device) for shape in ((64, 512), (3000, 512), (64, 3000)))
    with torch.autocast(device.type, enabled=False):
        parts = halved(hidden), halved(weight), halved(grad)
        found = product(parts[0], parts[1].T), product(parts[2], parts[1]), wide_product(parts[2].T, parts[0])
    wide = hidden.double(), weight.double(), grad.double()
    truth = wide[0] @ wide[1].T, wide[2] @ wide[1], wide[2].T @ wide[0]
    errors = [(a - b).abs().max() / b.abs().max() for a, b in zip(found, truth, strict=True)]
    return torch.stack(errors).nan_to_num(nan=float("inf")).max().item()
