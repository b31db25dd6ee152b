"""The kernels of `core.models.fused.layers`, forward and backward, in Triton (Liger's do the same; Hsu et al. 2024).

Imported only where it runs, since torch brings Triton along for GPUs alone.
"""

# Triton is there on GPUs alone; it compiles these functions, and takes the types of their arguments from the call.
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportMissingParameterType=false, reportIndexIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
# Numbers of tokens are no constants to compile for: Triton would compile anew, in mid-run, for the first that is one, or no multiple of 16.


@triton.jit
def _forward(gate, up, out, length, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < length
    g = tl.load(gate + place, mask=inside).to(tl.float32)
    u = tl.load(up + place, mask=inside).to(tl.float32)
    tl.store(out + place, g * tl.sigmoid(g) * u, mask=inside)


@triton.jit
def _backward(grad, gate, up, grad_gate, grad_up, length, block: tl.constexpr):
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
def _forward_by_row(gate, up, out, gate_row, up_row, size, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    inside = channel < size
    g = tl.load(gate + row * gate_row + channel, mask=inside).to(tl.float32)
    u = tl.load(up + row * up_row + channel, mask=inside).to(tl.float32)
    tl.store(out + row * size + channel, g * tl.sigmoid(g) * u, mask=inside)


def gated_silu_by_row(gate: Tensor, up: Tensor) -> Tensor:
    """`gated_silu` without gradients, of two parts of a wider product, whose channels lie side by side."""
    size = gate.shape[-1]
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    gates, ups = gate.flatten(0, -2), up.flatten(0, -2)
    grid = (len(gates), triton.cdiv(size, BLOCK))
    _forward_by_row[grid](gates, ups, out, gates.stride(0), ups.stride(0), size, BLOCK)
    return out


@triton.jit(do_not_specialize=["length"])
def _rotary(
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


def _rotated_format(x: Tensor, cos: Tensor) -> torch.dtype:
    """Under autocast attention would round to its format anyway."""
    autocast = torch.is_autocast_enabled("cuda")
    return torch.get_autocast_dtype("cuda") if autocast else torch.promote_types(x.dtype, cos.dtype)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Tensor:
        x, cos, sin = args
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _rotate(x, cos, sin, _rotated_format(x, cos), back=False)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad_outputs[0], cos, sin, ctx.dtype, back=True), None, None


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x * cos + (-x2, x1) * sin, for x of shape (B, heads, N, D) and tables of shape (B or 1, N, D)."""
    out = _Rotary.apply(x, cos.contiguous(), sin.contiguous())
    assert isinstance(out, Tensor)
    return out


@triton.jit
def _turn(
    source, target, head_stride, heads, cos_a, cos_b, sin_a, sin_b, all_heads: tl.constexpr, half: tl.constexpr,
):  # fmt: skip
    head = tl.arange(0, all_heads)[:, None]
    channel = tl.arange(0, half)[None, :]
    inside = (head < heads) & (channel < half)
    a = tl.load(source + head * head_stride + channel, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + head * head_stride + channel + half, mask=inside, other=0.0).to(tl.float32)
    place = target + head * 2 * half + channel
    tl.store(place, a * cos_a - b * sin_a, mask=inside)
    tl.store(place + half, b * cos_b + a * sin_b, mask=inside)


@triton.jit(do_not_specialize=["length"])
def _rotary_pair(
    q, k, cos, sin, out_q, out_k, length, q_batch, q_head, q_place, k_batch, k_head, k_place, table_batch, heads, key_heads,
    all_heads: tl.constexpr, all_key_heads: tl.constexpr, half: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    batch, place = token // length, token % length
    table = batch * table_batch + place * 2 * half + tl.arange(0, half)[None, :]
    cos_a, cos_b = tl.load(cos + table).to(tl.float32), tl.load(cos + table + half).to(tl.float32)
    sin_a, sin_b = tl.load(sin + table).to(tl.float32), tl.load(sin + table + half).to(tl.float32)
    source, target = q + batch * q_batch + place * q_place, out_q + token * heads * 2 * half
    _turn(source, target, q_head, heads, cos_a, cos_b, sin_a, sin_b, all_heads, half)
    source, target = k + batch * k_batch + place * k_place, out_k + token * key_heads * 2 * half
    _turn(source, target, k_head, key_heads, cos_a, cos_b, sin_a, sin_b, all_key_heads, half)


def rotated_pair(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """`rotated` of queries and of keys in one kernel, without gradients."""
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    cos, sin = cos.contiguous(), sin.contiguous()
    batch, heads, length, channels = q.shape
    key_heads = k.shape[1]
    out_q, out_k = (torch.empty(batch, length, own, channels, dtype=_rotated_format(q, cos), device=q.device) for own in (heads, key_heads))
    _rotary_pair[(batch * length,)](
        q, k, cos, sin, out_q, out_k, length, *q.stride()[:3], *k.stride()[:3], cos.stride(0) if len(cos) > 1 else 0, heads, key_heads,
        triton.next_power_of_2(heads), triton.next_power_of_2(key_heads), channels // 2,
    )  # fmt: skip
    return out_q.transpose(1, 2), out_k.transpose(1, 2)


@triton.jit
def _norm(
    x, y, weight, whole, out, roots, eps, size, adds: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, block)
    inside = channel < size
    a = tl.load(x + row * size + channel, mask=inside, other=0.0).to(tl.float32)
    if adds:
        a += tl.load(y + row * size + channel, mask=inside, other=0.0).to(tl.float32)
        rounded = a.to(whole.dtype.element_ty)
        tl.store(whole + row * size + channel, rounded, mask=inside)
        a = rounded.to(tl.float32)
    root = tl.math.rsqrt(tl.sum(a * a, 0) / size + eps)
    tl.store(roots + row, root)
    w = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * size + channel, (a * root * w).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def _norm_backward(
    grad, grad_whole, whole, weight, roots, grad_x, grad_y, grad_weight, num_rows, size,
    adds: tl.constexpr, copies: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    channel = tl.arange(0, block)
    inside = channel < size
    w = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    given = tl.zeros([block], tl.float32)
    for number in range(tl.program_id(0), num_rows, tl.num_programs(0)):
        place = number * size.to(tl.int64) + channel
        a = tl.load(whole + place, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        root = tl.load(roots + number)
        given += g * a * root
        g *= w
        d = root * (g - a * (root * root * tl.sum(g * a, 0) / size))
        if adds:
            d += tl.load(grad_whole + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_x + place, d.to(grad_x.dtype.element_ty), mask=inside)
        if copies:
            tl.store(grad_y + place, d.to(grad_y.dtype.element_ty), mask=inside)
    tl.store(grad_weight + tl.program_id(0) * size + channel, given, mask=inside)


PROGRAMS = 528
"""Of the norm's backward pass: four for each multiprocessor of an H100; each sums its share of the weight's gradient."""


class _Norm(torch.autograd.Function):
    """The norm of x, or of x + y; that sum comes first then."""

    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        x, y, weight, eps, dtype = args
        size = x.shape[-1]
        adds = y is not None
        whole = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, y.dtype), device=x.device) if adds else x
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        num_rows = x.numel() // size
        roots = torch.empty(num_rows, dtype=torch.float32, device=x.device)
        _norm[(num_rows,)](x, y if adds else x, weight, whole, out, roots, eps, size, adds, **_width(size))
        ctx.save_for_backward(whole, weight, roots)
        ctx.dtypes = (x.dtype, y.dtype if adds else None)
        return (whole, out) if adds else out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        whole, weight, roots = ctx.saved_tensors
        first, second = ctx.dtypes
        adds, copies = second is not None, second not in (None, first)
        grad = grad_outputs[-1].contiguous()
        grad_whole = grad_outputs[0].contiguous() if adds else grad
        size = whole.shape[-1]
        grad_x = torch.empty(whole.shape, dtype=first, device=whole.device)
        grad_y = torch.empty(whole.shape, dtype=second, device=whole.device) if copies else grad_x
        programs = min(PROGRAMS, len(roots))
        parts = torch.empty(programs, size, dtype=torch.float32, device=whole.device)
        _norm_backward[(programs,)](
            grad, grad_whole, whole, weight, roots, grad_x, grad_y, parts, len(roots), size, adds, copies, **_width(size)
        )
        grad_weight = parts.sum(0).to(weight.dtype) if ctx.needs_input_grad[2] else None
        return grad_x, grad_y if adds else None, grad_weight, None, None


def _width(size: int) -> dict[str, int]:
    block = triton.next_power_of_2(size)
    return {"block": block, "num_warps": min(16, max(4, block // 512))}


def normed(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """The RMSNorm of x over its last dimension, computed in fp32 and rounded once."""
    out = _Norm.apply(x.contiguous(), None, weight, eps, dtype)
    assert isinstance(out, Tensor)
    return out


def added_and_normed(x: Tensor, y: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + y, in the wider format of both, and its RMSNorm."""
    whole, out = _Norm.apply(x.contiguous(), y.contiguous(), weight, eps, dtype)
    return whole, out
