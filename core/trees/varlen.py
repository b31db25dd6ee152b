"""Attention over prompt trees on CUDA devices: one call for all segments of a stream.

The queries of a segment are one sequence, and its keys are those of its ancestors, gathered, and its own. Causal attention
aligned to the end is then what a prompt tree asks for, at any number of levels: `torch.nn.attention.varlen.varlen_attn` with the
window (-1, 0), FlashAttention's kernel for sequences of different lengths (Dao 2023, "FlashAttention-2").

Shapes: N tokens in a flat stream, H query heads, J key heads, D channels of a head, K keys of all sequences.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.attention.varlen import varlen_attn

from core.trees.layout import Sequences
from core.trees.trial import passes

Kernel = Callable[..., Any]

_DTYPES = (torch.bfloat16, torch.float16)
_MOST_CHANNELS = 256
_CHANNEL_UNIT = 8
_TOLERANCE = 0.05
# From torch 2.12 on grouped heads are asked for; before, the kernel took them without a word.
_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def fits_kernel(query_1HND: Tensor, key_1JND: Tensor, value_1JND: Tensor) -> bool:
    """Whether the kernel takes these tensors: on a GPU, in bf16 or fp16, and it was seen to give right values there."""
    num_channels = query_1HND.shape[-1]
    if not query_1HND.is_cuda or query_1HND.dtype not in _DTYPES or value_1JND.shape[-1] != num_channels:
        return False
    if num_channels > _MOST_CHANNELS or num_channels % _CHANNEL_UNIT:
        return False
    return _works(query_1HND.device, query_1HND.dtype, query_1HND.shape[1], key_1JND.shape[1], num_channels)


def attend_by_sequence(
    query_1HND: Tensor, key_1JND: Tensor, value_1JND: Tensor, sequences: Sequences, scaling: float | None, kernel: Kernel = varlen_attn
) -> Tensor:
    """Attention over the stream, of shape (1, N, H, D)."""
    query_NHD, key_NJD, value_NJD = (tensor[0].transpose(0, 1) for tensor in (query_1HND, key_1JND, value_1JND))
    if sequences.keys_K is not None:
        key_NJD, value_NJD = _gather(key_NJD, sequences.keys_K), _gather(value_NJD, sequences.keys_K)
    out_NHD = kernel(
        query_NHD,
        key_NJD,
        value_NJD,
        sequences.query_bounds,
        sequences.key_bounds,
        sequences.most_queries,
        sequences.most_keys,
        scale=scaling,
        window_size=(-1, 0),
        **(_GROUPED if query_NHD.shape[1] != key_NJD.shape[1] else {}),
    )
    return out_NHD[None]


class _Gather(torch.autograd.Function):
    """`rows[places]` whose gradient is summed in fp32: in bf16 the shares of many completions in a prompt would round away."""

    @staticmethod
    def forward(ctx: FunctionCtx, *args: Any, **kwargs: Any) -> Tensor:
        rows_NJD, places_K = args
        ctx.save_for_backward(places_K)
        vars(ctx)["num_rows"] = len(rows_NJD)
        return rows_NJD.index_select(0, places_K)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        (gradient_KJD,) = grad_outputs
        (places_K,) = ctx.saved_tensors
        wide = torch.promote_types(gradient_KJD.dtype, torch.float32)
        total_NJD = gradient_KJD.new_zeros(ctx.num_rows, *gradient_KJD.shape[1:], dtype=wide)
        return total_NJD.index_add_(0, places_K, gradient_KJD.to(wide)).to(gradient_KJD.dtype), None


def _gather(rows_NJD: Tensor, places_K: Tensor) -> Tensor:
    gathered = _Gather.apply(rows_NJD, places_K)
    assert isinstance(gathered, Tensor)
    return gathered


@cache
def _works(device: torch.device, dtype: torch.dtype, num_heads: int, num_key_heads: int, num_channels: int) -> bool:
    """Tries the kernel once, forward and backward; a failure is told, and the calls by block are taken from then on."""
    return passes(
        lambda: _error_of_kernel(device, dtype, num_heads, num_key_heads, num_channels),
        tolerance=_TOLERANCE,
        otherwise="attention over prompt trees goes segment by segment, slower: varlen_attn fails here",
    )


def _error_of_kernel(device: torch.device, dtype: torch.dtype, num_heads: int, num_key_heads: int, num_channels: int) -> float:
    """Largest error of outputs and gradients over the largest value, for 40 queries below 24 keys, against fp32."""
    draw = torch.Generator().manual_seed(0)
    heads = ((40, num_heads), (64, num_key_heads), (64, num_key_heads))
    drawn = [torch.randn(length, number, num_channels, generator=draw).to(device, dtype) for length, number in heads]
    query_bounds, key_bounds = (torch.tensor([0, length], dtype=torch.int32, device=device) for length in (40, 64))
    grouped = _GROUPED if num_heads != num_key_heads else {}

    def of_kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = varlen_attn(query, key, value, query_bounds, key_bounds, 40, 64, window_size=(-1, 0), **grouped)
        assert isinstance(out, Tensor), "a pair only where auxiliary outputs are asked for"
        return out

    def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = (tensor.repeat_interleave(num_heads // num_key_heads, 1) for tensor in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query, key) / num_channels**0.5
        scores = scores.masked_fill(torch.ones(40, 64, dtype=torch.bool, device=device).triu(25), float("-inf"))
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)

    with torch.autocast(device.type, enabled=False), torch.enable_grad():
        ours, truth = _with_gradients(of_kernel, drawn), _with_gradients(plain, [tensor.float() for tensor in drawn])
    errors = [(a.float() - b).abs().max() / b.abs().max() for a, b in zip(ours, truth, strict=True)]
    return torch.stack(errors).nan_to_num(nan=float("inf")).max().item()


def _with_gradients(attend: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = attend(*leaves)
    gradients = torch.autograd.grad(out, leaves, torch.ones_like(out) * out.detach())
    return [out.detach(), *gradients]
