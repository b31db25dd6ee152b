"""Attention over prompt trees as FlashAttention-2 does it (Dao 2023), forward and backward, in Triton.

A tile is up to `TILE` neighbouring tokens of one tree. Its queries go through ranges of keys, which all of them see or which the rule of
`core.trees.layout` masks; nothing is gathered, siblings share a tile, and keys that no query of a tile sees are not touched. Keys
see their queries the other way round: those behind them, up to the end of their subtree, are one range.

Imported only where it runs, since torch brings Triton along for GPUs alone.

Shapes: N tokens in a flat stream, H query heads, J key heads, D channels of a head.
"""

# Triton is there on GPUs alone; it compiles these functions, and takes the types of their arguments from the call.
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportMissingParameterType=false, reportIndexIssue=false

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.trees.tiles import COLUMNS, TILE, Tiles

LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class Shape:
    """Tokens that a program holds, tokens that it goes through at a time, warps, and loads under way."""

    held: int
    step: int
    warps: int
    stages: int


FORWARD = {64: Shape(128, 64, 4, 3), 128: Shape(128, 64, 8, 3)}
"""By channels of a head; measured on an H100."""
QUERIES = {64: Shape(128, 32, 8, 3), 128: Shape(128, 64, 8, 3)}
KEYS = {64: Shape(64, 32, 4, 3), 128: Shape(128, 32, 8, 3)}


@triton.jit
def _tile(tiles, program, heads, held: tl.constexpr, tile: tl.constexpr, columns: tl.constexpr):
    """The tile of a program, its head, its first token and the one past its last."""
    parts: tl.constexpr = tile // held
    head = program % heads
    rest = program // heads
    info = tiles + (rest // parts) * columns
    start = tl.load(info) + (rest % parts) * held
    return info, head, start, tl.minimum(start + held, tl.load(info + 1))


@triton.jit
def _scores(q, k_T, rows, places, high, ends, factor, whole: tl.constexpr, masked: tl.constexpr):
    """Scores in base 2 of queries and keys, minus infinity for those beyond the range or hidden."""
    s = tl.dot(q, k_T) * factor
    if masked:
        behind = tl.load(ends + places, mask=places < high, other=0)
        s = tl.where((places[None, :] <= rows[:, None]) & (rows[:, None] < behind[None, :]), s, float("-inf"))
    elif not whole:
        s = tl.where(places[None, :] < high, s, float("-inf"))
    return s


@triton.jit
def _gain(
    out, most, total, q, rows, k_head, v_head, k_token, v_token, at, high, ends, factor,
    channels: tl.constexpr, step: tl.constexpr, whole: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    """One step of the forward pass: the keys from `at` on."""
    places = at + tl.arange(0, step)
    channel = tl.arange(0, channels)
    inside = places < high
    ahead = tl.arange(0, step)
    k_places = k_head + k_token.to(tl.int64) * at + (ahead[None, :] * k_token + channel[:, None])
    v_places = v_head + v_token.to(tl.int64) * at + (ahead[:, None] * v_token + channel[None, :])
    if whole:
        k_T, v = tl.load(k_places), tl.load(v_places)
    else:
        k_T = tl.load(k_places, mask=inside[None, :], other=0.0)
        v = tl.load(v_places, mask=inside[:, None], other=0.0)
    s = _scores(q, k_T, rows, places, high, ends, factor, whole, masked)
    new = tl.maximum(most, tl.max(s, 1))
    if masked:  # a row may have seen no key yet
        new = tl.maximum(new, -1e30)
    p = tl.math.exp2(s - new[:, None])
    shrink = tl.math.exp2(most - new)
    total = total * shrink + tl.sum(p, 1)
    out = out * shrink[:, None]
    out = tl.dot(p.to(v.dtype), v, out)
    return out, new, total


@triton.jit
def _forward(
    q, k, v, out, logs, tiles, ranges, ends, factor, heads, q_head, q_token, k_head, k_token, v_head, v_token,
    group: tl.constexpr, channels: tl.constexpr, held: tl.constexpr, step: tl.constexpr, tile: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    info, head, start, end = _tile(tiles, tl.program_id(0), heads, held, tile, columns)
    if start < end:
        rows = start + tl.arange(0, held)
        channel = tl.arange(0, channels)
        inside = rows < end
        queries = tl.load(q + head * q_head + rows.to(tl.int64)[:, None] * q_token + channel[None, :], mask=inside[:, None], other=0.0)
        k_own, v_own = k + (head // group) * k_head, v + (head // group) * v_head
        most = tl.full([held], float("-inf"), tl.float32)
        total = tl.zeros([held], tl.float32)
        gained = tl.zeros([held, channels], tl.float32)
        first, masked, last = tl.load(info + 2), tl.load(info + 3), tl.load(info + 4)
        for number in range(first, masked):
            low, high = tl.load(ranges + 2 * number), tl.load(ranges + 2 * number + 1)
            cut = low + (high - low) // step * step
            for at in range(low, cut, step):
                gained, most, total = _gain(
                    gained, most, total, queries, rows, k_own, v_own, k_token, v_token, at, high, ends, factor, channels, step, True, False
                )
            if cut < high:
                gained, most, total = _gain(
                    gained, most, total, queries, rows, k_own, v_own,
                    k_token, v_token, cut, high, ends, factor, channels, step, False, False
                )  # fmt: skip
        for number in range(masked, last):
            low, high = tl.load(ranges + 2 * number), tl.minimum(tl.load(ranges + 2 * number + 1), end)
            for at in range(low, high, step):
                gained, most, total = _gain(
                    gained, most, total, queries, rows, k_own, v_own, k_token, v_token, at, high, ends, factor, channels, step, False, True
                )
        places = (rows.to(tl.int64) * heads + head)[:, None] * channels + channel[None, :]
        tl.store(out + places, (gained / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
        tl.store(logs + rows.to(tl.int64) * heads + head, most + tl.math.log2(total), mask=inside)


@triton.jit(do_not_specialize=["length"])
def _shares(out, grad, shares, length, channels: tl.constexpr, block: tl.constexpr):
    """The sum of outputs times their gradients, for every token and head."""
    row = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    places = row[:, None] * channels + tl.arange(0, channels)[None, :]
    inside = (row < length)[:, None]
    product = tl.load(out + places, mask=inside, other=0.0).to(tl.float32) * tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(shares + row, tl.sum(product, 1), mask=row < length)


@triton.jit
def _lose(
    grad_q, q, grad, logs, shares, rows, k_head, v_head, k_token, v_token, at, high, ends, factor,
    channels: tl.constexpr, step: tl.constexpr, whole: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    """One step of the gradient of queries: the keys from `at` on."""
    places = at + tl.arange(0, step)
    channel = tl.arange(0, channels)
    ahead = tl.arange(0, step)
    k_places = k_head + k_token.to(tl.int64) * at + (ahead[None, :] * k_token + channel[:, None])
    v_places = v_head + v_token.to(tl.int64) * at + (ahead[None, :] * v_token + channel[:, None])
    if whole:
        k_T, v_T = tl.load(k_places), tl.load(v_places)
    else:
        k_T = tl.load(k_places, mask=(places < high)[None, :], other=0.0)
        v_T = tl.load(v_places, mask=(places < high)[None, :], other=0.0)
    p = tl.math.exp2(_scores(q, k_T, rows, places, high, ends, factor, whole, masked) - logs[:, None])
    lost = (p * (tl.dot(grad, v_T) - shares[:, None])).to(k_T.dtype)
    return tl.dot(lost, tl.trans(k_T), grad_q)


@triton.jit
def _backward_queries(
    q, k, v, grad, logs, shares, grad_q, tiles, ranges, ends, factor, scale, heads, q_head, q_token, k_head, k_token, v_head, v_token,
    group: tl.constexpr, channels: tl.constexpr, held: tl.constexpr, step: tl.constexpr, tile: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    info, head, start, end = _tile(tiles, tl.program_id(0), heads, held, tile, columns)
    if start < end:
        rows = start + tl.arange(0, held)
        channel = tl.arange(0, channels)
        inside = rows < end
        queries = tl.load(q + head * q_head + rows.to(tl.int64)[:, None] * q_token + channel[None, :], mask=inside[:, None], other=0.0)
        places = (rows.to(tl.int64) * heads + head)[:, None] * channels + channel[None, :]
        own = tl.load(grad + places, mask=inside[:, None], other=0.0)
        log = tl.load(logs + rows.to(tl.int64) * heads + head, mask=inside, other=0.0)
        share = tl.load(shares + rows.to(tl.int64) * heads + head, mask=inside, other=0.0)
        k_own, v_own = k + (head // group) * k_head, v + (head // group) * v_head
        found = tl.zeros([held, channels], tl.float32)
        first, masked, last = tl.load(info + 2), tl.load(info + 3), tl.load(info + 4)
        for number in range(first, masked):
            low, high = tl.load(ranges + 2 * number), tl.load(ranges + 2 * number + 1)
            cut = low + (high - low) // step * step
            for at in range(low, cut, step):
                found = _lose(
                    found, queries, own, log, share, rows, k_own, v_own,
                    k_token, v_token, at, high, ends, factor, channels, step, True, False
                )  # fmt: skip
            if cut < high:
                found = _lose(
                    found, queries, own, log, share, rows, k_own, v_own,
                    k_token, v_token, cut, high, ends, factor, channels, step, False, False
                )  # fmt: skip
        for number in range(masked, last):
            low, high = tl.load(ranges + 2 * number), tl.minimum(tl.load(ranges + 2 * number + 1), end)
            for at in range(low, high, step):
                found = _lose(
                    found, queries, own, log, share, rows, k_own, v_own,
                    k_token, v_token, at, high, ends, factor, channels, step, False, True
                )  # fmt: skip
        tl.store(grad_q + places, (found * scale).to(grad_q.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _backward_keys(
    q, k, v, grad, logs, shares, grad_k, grad_v, tiles, ends, factor, scale, heads, q_head, q_token, k_head, k_token, v_head, v_token,
    group: tl.constexpr, channels: tl.constexpr, held: tl.constexpr, step: tl.constexpr, tile: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    key_heads = heads // group
    info, head, start, end = _tile(tiles, tl.program_id(0), key_heads, held, tile, columns)
    if start < end:
        places = start + tl.arange(0, held)
        channel = tl.arange(0, channels)
        inside = places < end
        far = places.to(tl.int64)
        keys = tl.load(k + head * k_head + far[:, None] * k_token + channel[None, :], mask=inside[:, None], other=0.0)
        values = tl.load(v + head * v_head + far[:, None] * v_token + channel[None, :], mask=inside[:, None], other=0.0)
        behind = tl.load(ends + places, mask=inside, other=0)
        found_k = tl.zeros([held, channels], tl.float32)
        found_v = tl.zeros([held, channels], tl.float32)
        last = tl.load(info + 5)
        ahead = tl.arange(0, step)
        q_ahead, own_ahead = ahead[None, :] * q_token + channel[:, None], ahead[:, None] * (heads * channels) + channel[None, :]
        for number in range(group):
            own = head * group + number
            q_own, grad_own, logs_own, shares_own = q + own * q_head, grad + own * channels, logs + own, shares + own
            for at in range(start, last, step):
                rows = at + ahead
                within = rows < last
                first = tl.cast(heads, tl.int64) * at
                q_T = tl.load(q_own + q_token.to(tl.int64) * at + q_ahead, mask=within[None, :], other=0.0)
                given = tl.load(grad_own + first * channels + own_ahead, mask=within[:, None], other=0.0)
                log = tl.load(logs_own + first + ahead * heads, mask=within, other=0.0)
                share = tl.load(shares_own + first + ahead * heads, mask=within, other=0.0)
                p_T = tl.math.exp2(tl.dot(keys, q_T) * factor - log[None, :])
                p_T = tl.where((places[:, None] <= rows[None, :]) & (rows[None, :] < behind[:, None]), p_T, 0.0)
                found_v = tl.dot(p_T.to(given.dtype), given, found_v)
                lost_T = (p_T * (tl.dot(values, tl.trans(given)) - share[None, :])).to(q_T.dtype)
                found_k = tl.dot(lost_T, tl.trans(q_T), found_k)
        target = (far * key_heads + head)[:, None] * channels + channel[None, :]
        tl.store(grad_k + target, (found_k * scale).to(grad_k.dtype.element_ty), mask=inside[:, None])
        tl.store(grad_v + target, found_v.to(grad_v.dtype.element_ty), mask=inside[:, None])


class _Attention(torch.autograd.Function):
    """Queries (N, H, D), keys and values (N, J, D) with channels side by side; the result (N, H, D)."""

    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Tensor:
        query, key, value, tiles, ends, scaling = args
        num_tokens, heads, channels = query.shape
        out = torch.empty(num_tokens, heads, channels, dtype=value.dtype, device=query.device)
        logs = torch.empty(num_tokens, heads, dtype=torch.float32, device=query.device)
        _forward[_grid(tiles, FORWARD[channels], heads)](
            query, key, value, out, logs, tiles.tiles, tiles.ranges, ends, scaling * LOG2_E, heads, *_strides(query, key, value),
            **_constants(FORWARD[channels], query, key),
        )  # fmt: skip
        ctx.save_for_backward(query, key, value, out, logs, ends)
        ctx.tiles, ctx.scaling = tiles, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        query, key, value, out, logs, ends = ctx.saved_tensors
        grad, tiles, factor = grad_outputs[0].contiguous(), ctx.tiles, ctx.scaling * LOG2_E
        heads, channels = query.shape[1:]
        shares = torch.empty_like(logs)
        _shares[(triton.cdiv(shares.numel(), TILE),)](out, grad, shares, shares.numel(), channels, TILE)
        grads = [torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in (query, key, value)]
        strides = _strides(query, key, value)
        _backward_keys[_grid(tiles, KEYS[channels], key.shape[1])](
            query, key, value, grad, logs, shares, grads[1], grads[2], tiles.tiles, ends, factor, ctx.scaling, heads, *strides,
            **_constants(KEYS[channels], query, key),
        )  # fmt: skip
        _backward_queries[_grid(tiles, QUERIES[channels], heads)](
            query, key, value, grad, logs, shares, grads[0], tiles.tiles, tiles.ranges, ends, factor, ctx.scaling, heads, *strides,
            **_constants(QUERIES[channels], query, key),
        )  # fmt: skip
        return *grads, None, None, None


def attend_by_tile(query_NHD: Tensor, key_NJD: Tensor, value_NJD: Tensor, tiles: Tiles, ends_N: Tensor, scaling: float) -> Tensor:
    """Attention over the stream, of shape (N, H, D), for heads of the channels in `FORWARD`."""
    parts = (part if part.stride(-1) == 1 else part.contiguous() for part in (query_NHD, key_NJD, value_NJD))
    out_NHD = _Attention.apply(*parts, tiles, ends_N, scaling)
    assert isinstance(out_NHD, Tensor)
    return out_NHD


def _grid(tiles: Tiles, shape: Shape, heads: int) -> tuple[int]:
    return (tiles.number * (TILE // shape.held) * heads,)


def _strides(query: Tensor, key: Tensor, value: Tensor) -> tuple[int, ...]:
    return tuple(part.stride(dim) for part in (query, key, value) for dim in (1, 0))


def _constants(shape: Shape, query: Tensor, key: Tensor) -> dict[str, int]:
    return {
        "group": query.shape[1] // key.shape[1],
        "channels": query.shape[-1],
        "held": shape.held,
        "step": shape.step,
        "tile": TILE,
        "columns": COLUMNS,
        "num_warps": shape.warps,
        "num_stages": shape.stages,
    }
