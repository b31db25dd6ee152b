"""The kernels of `core.models.fused`, forward and backward, in Triton (Liger's do the same; Hsu et al. 2024).

Imported only where it runs, since torch brings Triton along for GPUs alone.
"""

# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportMissingParameterType=false, reportIndexIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _forward(gate, up, out, length, block: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < length
    g = tl.load(gate + place, mask=inside).to(tl.float32)
    u = tl.load(up + place, mask=inside).to(tl.float32)
    tl.store(out + place, g * tl.sigmoid(g) * u, mask=inside)


@triton.jit
def _backward(grad, gate, up, grad_gate, grad_up, length, block: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < length
    d = tl.load(grad + place, mask=inside).to(tl.float32)
    g = tl.load(gate + place, mask=inside).to(tl.float32)
    u = tl.load(up + place, mask=inside).to(tl.float32)
    s = tl.sigmoid(g)
    tl.store(grad_up + place, d * g * s, mask=inside)
    tl.store(grad_gate + place, d * u * s * (1 + g * (1 - s)), mask=inside)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Tensor:
        gate, up = args
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        _forward[(triton.cdiv(gate.numel(), BLOCK),)](gate, up, out, gate.numel(), BLOCK)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        _backward[(triton.cdiv(gate.numel(), BLOCK),)](grad, gate, up, grad_gate, grad_up, gate.numel(), BLOCK)
        return grad_gate, grad_up


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, computed in fp32 and rounded once."""
    out = _Gate.apply(gate.contiguous(), up.contiguous())
    assert isinstance(out, Tensor)
    return out


@triton.jit
def _rotary(  # type: ignore[no-untyped-def]
    x, cos, sin, out, length, x_batch, x_head, x_place, table_batch, heads,
    all_heads: tl.constexpr, half: tl.constexpr, back: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    batch, place = token // length, token % length
    head = tl.arange(0, all_heads)[:, None]
    channel = tl.arange(0, half)[None, :]
    inside = (head < heads) & (channel < half)
    source = x + batch * x_batch + place * x_place + head * x_head + channel
    a = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    table = batch * table_batch + place * 2 * half + channel
    cos_a, cos_b = tl.load(cos + table).to(tl.float32), tl.load(cos + table + half).to(tl.float32)
    sin_a, sin_b = tl.load(sin + table).to(tl.float32), tl.load(sin + table + half).to(tl.float32)
    target = out + (token * heads + head) * 2 * half + channel
    if back:
        tl.store(target, a * cos_a + b * sin_b, mask=inside)
        tl.store(target + half, b * cos_b - a * sin_a, mask=inside)
    else:
        tl.store(target, a * cos_a - b * sin_a, mask=inside)
        tl.store(target + half, b * cos_b + a * sin_b, mask=inside)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype, *, back: bool) -> Tensor:
    """(B, heads, N, D) in any layout with channels side by side; the result lies in memory as (B, N, heads, D)."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    batch, heads, length, channels = x.shape
    out = torch.empty(batch, length, heads, channels, dtype=dtype, device=x.device)
    table_batch = cos.stride(0) if len(cos) > 1 else 0
    _rotary[(batch * length,)](
        x, cos, sin, out, length, x.stride(0), x.stride(1), x.stride(2), table_batch, heads,
        triton.next_power_of_2(heads), channels // 2, back,
    )  # fmt: skip
    return out.transpose(1, 2)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Tensor:
        x, cos, sin = args
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _rotate(x, cos, sin, torch.promote_types(x.dtype, cos.dtype), back=False)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad_outputs[0], cos, sin, ctx.dtype, back=True), None, None


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x * cos + (-x2, x1) * sin, for x of shape (B, heads, N, D) and tables of shape (B or 1, N, D)."""
    out = _Rotary.apply(x, cos.contiguous(), sin.contiguous())
    assert isinstance(out, Tensor)
    return out
