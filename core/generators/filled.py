"""Attention of one new token in each row to the filled part of its row's memory, by a kernel of our own on CUDA devices where it works.

Shapes: R rows, H query heads, J key heads, L tokens that a row has room for, D channels of a head.
"""

from functools import cache

import torch
from torch import Tensor

from core.models.fused.rotations import Angles, rotated_by_halves
from core.trees.trial import passes

MOST_CHANNELS = 256
LEAST_PROGRAMS = 64
"""Rows times key heads from which the kernel has enough to do at once: it does not divide a row's keys."""
_TOLERANCE = 0.03


def fits_rows(query_1HRD: Tensor, key_1JRD: Tensor, value_1JRD: Tensor) -> bool:
    """Whether the kernel takes these tensors: on a GPU, in 16 bits, enough rows, and it was seen to give right values there."""
    heads, num_rows, channels = query_1HRD.shape[1:]
    key_heads = key_1JRD.shape[1]
    if not query_1HRD.is_cuda or value_1JRD.dtype not in (torch.bfloat16, torch.float16) or num_rows * key_heads < LEAST_PROGRAMS:
        return False
    if value_1JRD.shape[-1] != channels or channels & (channels - 1) or not 16 <= channels <= MOST_CHANNELS or heads % key_heads:
        return False
    return _works(query_1HRD.device, value_1JRD.dtype, heads, key_heads, channels)


def turns_rows(query_1HRD: Tensor, key_1JRD: Tensor) -> bool:
    """Whether the kernel also rotates such queries and keys; values are like keys."""
    heads, _, channels = query_1HRD.shape[1:]
    fits = query_1HRD.dtype == key_1JRD.dtype and fits_rows(query_1HRD, key_1JRD, key_1JRD)
    return fits and _works(query_1HRD.device, key_1JRD.dtype, heads, key_1JRD.shape[1], channels, turns=True)


def attend_filled(
    query_1HRD: Tensor,
    key_1JRD: Tensor,
    value_1JRD: Tensor,
    keys_RJLD: Tensor,
    values_RJLD: Tensor,
    positions_R: Tensor,
    scaling: float | None,
    angles: Angles | None = None,
) -> Tensor:
    """Writes the new keys and values at the rows' positions; returns attention to all up to them, of shape (1, R, H, D).

    With `angles`, each (1, R, D), queries and keys are rotated first."""
    from core.generators.kernels import attend_rows

    factor = float(query_1HRD.shape[-1] ** -0.5) if scaling is None else scaling
    turned = None if angles is None else (angles[0][0], angles[1][0])
    return attend_rows(query_1HRD[0], key_1JRD[0], value_1JRD[0], keys_RJLD, values_RJLD, positions_R, factor, turned)[None]


@cache
def _works(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, channels: int, *, turns: bool = False) -> bool:
    """Tries the kernel once; a failure is told, and its work is done as before."""
    instead = "queries and keys are rotated apart" if turns else "rollouts read all room of their rows"
    return passes(
        lambda: _error(device, dtype, heads, key_heads, channels, turns=turns),
        tolerance=_TOLERANCE,
        otherwise=f"{instead}, slower: the kernel of a rollout's attention fails",
    )


def _error(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, channels: int, *, turns: bool = False) -> float:
    """Largest error over the largest value, against fp32 over all room, masked; infinite if new keys are not where they belong."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((1, heads, 3, channels), *[(1, key_heads, 3, channels)] * 2, *[(3, key_heads, 150, channels)] * 2)
    query, key, value, keys, values = (torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes)
    cos, sin = torch.randn(2, 1, 3, channels, generator=draw).to(device, dtype).unbind()
    positions_R, rows_R = torch.tensor([0, 64, 149], device=device), torch.arange(3, device=device)
    turned_q, turned_k = (rotated_by_halves(part.float(), cos.float(), sin.float()).to(dtype) if turns else part for part in (query, key))
    expected = keys.clone(), values.clone()
    for room, new in zip(expected, (turned_k, value), strict=True):
        room[rows_R, :, positions_R] = new[0].transpose(0, 1)
    ours = attend_filled(query, key, value, keys, values, positions_R, None, (cos, sin) if turns else None)[0].float()
    wide_k, wide_v = (room.float().repeat_interleave(heads // key_heads, 1) for room in expected)
    scores = torch.einsum("hrd,rhld->rhl", turned_q[0].float(), wide_k) / channels**0.5
    hidden_R1L = (torch.arange(150, device=device) > positions_R[:, None])[:, None]
    truth = torch.einsum("rhl,rhld->rhd", scores.masked_fill(hidden_R1L, float("-inf")).softmax(-1), wide_v)
    room_for_rounding = 2**-7 if turns else 0.0
    if not all(torch.allclose(a, b, room_for_rounding, room_for_rounding) for a, b in zip(expected, (keys, values), strict=True)):
        return float("inf")
    return ((ours - truth).abs().max() / truth.abs().max()).nan_to_num(nan=float("inf")).item()
