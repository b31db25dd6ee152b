"""Attention over prompt trees by the kernels of `core.trees.kernels`, on CUDA devices where they are seen to work.

Shapes: N tokens in a flat stream, H query heads, J key heads, D channels of a head.
"""

from functools import cache

import torch
from torch import Tensor

from core.trees.tiles import Tiles, lay_tiles
from core.trees.trial import passes

_DTYPES = (torch.bfloat16, torch.float16)
_CHANNELS = (64, 128)
_TOLERANCE = 0.03
_LENGTHS, _ANCESTORS = (150, 40, 30), ((), (0,), (0,))
"""Of the tree that the kernels are tried on: a prompt with two completions."""


def fits_tiles(query_1HND: Tensor, key_1JND: Tensor, value_1JND: Tensor) -> bool:
    """Whether the kernels take these tensors: on a GPU, in bf16 or fp16, with usual heads, and they were seen to give right values."""
    num_heads, num_key_heads, num_channels = query_1HND.shape[1], key_1JND.shape[1], query_1HND.shape[-1]
    if not query_1HND.is_cuda or query_1HND.dtype not in _DTYPES or num_channels not in _CHANNELS or num_heads % num_key_heads:
        return False
    if not query_1HND.dtype == key_1JND.dtype == value_1JND.dtype or value_1JND.shape[-1] != num_channels:
        return False
    return _works(query_1HND.device, query_1HND.dtype, num_heads, num_key_heads, num_channels)


def attend_on_tiles(
    query_1HND: Tensor, key_1JND: Tensor, value_1JND: Tensor, tiles: Tiles, ends_N: Tensor, scaling: float | None
) -> Tensor:
    """Attention over the stream, of shape (1, N, H, D); `ends_N` are the ends of the tokens' subtrees."""
    from core.trees.kernels import attend_by_tile

    query_NHD, key_NJD, value_NJD = (tensor[0].transpose(0, 1) for tensor in (query_1HND, key_1JND, value_1JND))
    return attend_by_tile(query_NHD, key_NJD, value_NJD, tiles, ends_N, query_1HND.shape[-1] ** -0.5 if scaling is None else scaling)[None]


@cache
def _works(device: torch.device, dtype: torch.dtype, num_heads: int, num_key_heads: int, num_channels: int) -> bool:
    """Tries the kernels once, forward and backward; a failure is told, and another road is taken from then on."""
    return passes(
        lambda: _error(device, dtype, num_heads, num_key_heads, num_channels),
        tolerance=_TOLERANCE,
        otherwise="attention over prompt trees gathers keys, slower: its kernel by tiles fails here",
    )


def _error(device: torch.device, dtype: torch.dtype, num_heads: int, num_key_heads: int, num_channels: int) -> float:
    """Largest error of outputs and gradients over the largest value, against fp32 under a dense mask."""
    draw = torch.Generator().manual_seed(0)
    num_tokens = sum(_LENGTHS)
    drawn = [
        torch.randn(1, number, num_tokens, num_channels, generator=draw).to(device, dtype)
        for number in (num_heads, num_key_heads, num_key_heads, num_heads)
    ]
    ends_N = torch.tensor([num_tokens] * _LENGTHS[0] + [sum(_LENGTHS[:2])] * _LENGTHS[1] + [num_tokens] * _LENGTHS[2], device=device)
    place_N = torch.arange(num_tokens, device=device)
    hidden_NN = (place_N > place_N[:, None]) | (place_N[:, None] >= ends_N)
    tiles = lay_tiles(_LENGTHS, _ANCESTORS, (0,), device)
    with torch.autocast(device.type, enabled=False), torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in drawn[:3]]
        out = attend_on_tiles(leaves[0], leaves[1], leaves[2], tiles, ends_N, None)
        ours = [out, *torch.autograd.grad(out, leaves, drawn[3].transpose(1, 2))]
        wide = [tensor.detach().float().requires_grad_() for tensor in drawn[:3]]
        key, value = (tensor.repeat_interleave(num_heads // num_key_heads, 1) for tensor in wide[1:])
        scores = (wide[0] @ key.transpose(2, 3) / num_channels**0.5).masked_fill(hidden_NN, float("-inf"))
        dense = (scores.softmax(-1) @ value).transpose(1, 2)
        truth = [dense, *torch.autograd.grad(dense, wide, drawn[3].transpose(1, 2).float())]
    errors = [(a.float() - b).abs().max() / b.abs().max() for a, b in zip(ours, truth, strict=True)]
    return torch.stack(errors).nan_to_num(nan=float("inf")).max().item()
