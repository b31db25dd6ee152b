"""The kernels of a rollout's step, in Triton: attention of one new token in each row, and drawing the next one.

Imported only where it runs, since torch brings Triton along for GPUs alone.
"""

# Triton is there on GPUs alone; it compiles these functions, and takes the types of their arguments from the call.
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false, reportMissingParameterType=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

STEP = 64
"""Keys that a program reads at a time."""
LEAST = 16
"""Rows of the smallest matrix product; query heads that share a key head are padded to as many."""
LOG2_E = 1.4426950408889634
TOGETHER = 8
"""Chunks of the vocabulary that a program sums."""


@triton.jit
def _attend(
    q, k, v, cos, sin, keys, values, positions, out, factor, length, q_head, q_row, k_head, k_row, v_head, v_row, key_heads,
    group: tl.constexpr, padded: tl.constexpr, channels: tl.constexpr, step: tl.constexpr, turns: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0) // key_heads, tl.program_id(0) % key_heads
    place = tl.load(positions + row).to(tl.int32)
    channel, member, ahead = tl.arange(0, channels), tl.arange(0, padded), tl.arange(0, step)
    inside = (member < group)[:, None]
    own_k, own_v = tl.load(k + row * k_row + head * k_head + channel), tl.load(v + row * v_row + head * v_head + channel)
    places = q + row * q_row + (head * group + member)[:, None] * q_head
    queries = tl.load(places + channel[None, :], mask=inside, other=0.0)
    if turns:
        other = channel ^ (channels // 2)
        cosine = tl.load(cos + row * channels + channel).to(tl.float32)
        sine = tl.load(sin + row * channels + channel).to(tl.float32) * tl.where(channel < channels // 2, -1.0, 1.0)
        other_k = tl.load(k + row * k_row + head * k_head + other).to(tl.float32)
        own_k = (own_k.to(tl.float32) * cosine + other_k * sine).to(own_v.dtype)
        other_q = tl.load(places + other[None, :], mask=inside, other=0.0).to(tl.float32)
        queries = (queries.to(tl.float32) * cosine[None, :] + other_q * sine[None, :]).to(own_v.dtype)
    first = tl.program_id(0).to(tl.int64) * length * channels
    tl.store(keys + first + place * channels + channel, own_k)
    tl.store(values + first + place * channels + channel, own_v)
    # The new token's own key and value are taken as they come: what this program has written need not be seen by it yet.
    most = tl.sum(queries.to(tl.float32) * own_k.to(tl.float32)[None, :], 1) * factor
    total = tl.full([padded], 1.0, tl.float32)
    gained = tl.zeros([padded, channels], tl.float32) + own_v.to(tl.float32)[None, :]
    for at in range(0, place, step):
        known = at + ahead < place
        k_T = tl.load(keys + first + at * channels + (ahead[None, :] * channels + channel[:, None]), mask=known[None, :], other=0.0)
        v_own = tl.load(values + first + at * channels + (ahead[:, None] * channels + channel[None, :]), mask=known[:, None], other=0.0)
        s = tl.where(known[None, :], tl.dot(queries, k_T) * factor, float("-inf"))
        new = tl.maximum(most, tl.max(s, 1))
        p = tl.math.exp2(s - new[:, None])
        shrink = tl.math.exp2(most - new)
        total = total * shrink + tl.sum(p, 1)
        gained = tl.dot(p.to(v_own.dtype), v_own, gained * shrink[:, None])
        most = new
    target = out + (row * key_heads + head) * group * channels + member[:, None] * channels + channel[None, :]
    tl.store(target, (gained / total[:, None]).to(out.dtype.element_ty), mask=inside)


def attend_rows(
    query_HRD: Tensor, key_JRD: Tensor, value_JRD: Tensor, keys_RJLD: Tensor, values_RJLD: Tensor, positions_R: Tensor, scaling: float,
    angles: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Writes the new keys and values at the rows' positions; returns the attention of the new tokens to all up to them, (R, H, D).

    With `angles`, cosines and sines of shape (R, D), queries and keys are rotated by halves first."""
    num_rows, key_heads, length, channels = keys_RJLD.shape
    parts = [part if part.stride(-1) == 1 else part.contiguous() for part in (query_HRD, key_JRD, value_JRD)]
    out_RHD = torch.empty(num_rows, len(query_HRD), channels, dtype=values_RJLD.dtype, device=values_RJLD.device)
    group = len(query_HRD) // key_heads
    cos_RD, sin_RD = (positions_R, positions_R) if angles is None else (table.contiguous() for table in angles)
    _attend[(num_rows * key_heads,)](
        *parts, cos_RD, sin_RD, keys_RJLD, values_RJLD, positions_R, out_RHD, scaling * LOG2_E, length,
        *(part.stride(dim) for part in parts for dim in (0, 1)), key_heads,
        group, max(LEAST, triton.next_power_of_2(group)), channels, STEP, angles is not None, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out_RHD


@triton.jit
def _sum_chunks(
    logits, maxima, sums, row_stride, vocabulary, chunks, temperature, chunk: tl.constexpr, together: tl.constexpr,
):  # fmt: skip
    """The largest logit of every chunk, and the sum of the exponentials relative to it."""
    row = tl.program_id(0).to(tl.int64)
    number = tl.program_id(1) * together + tl.arange(0, together)
    token = number[:, None] * chunk + tl.arange(0, chunk)[None, :]
    x = tl.load(logits + row * row_stride + token, mask=token < vocabulary, other=float("-inf")) / temperature
    most = tl.max(x, 1)
    # A chunk of impossible tokens alone has the sum zero, not NaN.
    total = tl.sum(tl.exp(x - tl.where(most == float("-inf"), 0.0, most)[:, None]), 1)
    tl.store(maxima + row * chunks + number, most, mask=number < chunks)
    tl.store(sums + row * chunks + number, total, mask=number < chunks)


@triton.jit
def _draw(
    logits, maxima, sums, following, positions, steps, active, lengths, uniforms, tokens, logprobs, ends,
    row_stride, vocabulary, chunks, temperature, room, num_ends, chunk: tl.constexpr, padded: tl.constexpr, padded_ends: tl.constexpr,
):  # fmt: skip
    """One token of a row: its chunk first, then its place there. Scans may round unevenly, so that places of no probability are passed
    over by name. Then it is written down."""
    row = tl.program_id(0).to(tl.int64)
    step = tl.load(steps + row)
    number, place = tl.arange(0, padded), tl.arange(0, chunk)
    maximum = tl.load(maxima + row * chunks + number, mask=number < chunks, other=float("-inf"))
    most = tl.max(maximum, 0)
    weight = tl.load(sums + row * chunks + number, mask=number < chunks, other=0.0) * tl.exp(maximum - most)
    total = tl.sum(weight, 0)
    target = tl.load(uniforms + row * room + step) * total
    beyond = tl.where((tl.cumsum(weight, 0) > target) & (weight > 0), number, padded)
    own = tl.minimum(tl.min(beyond, 0), tl.max(tl.where(weight > 0, number, 0), 0))
    target -= tl.sum(tl.where(number < own, weight, 0.0), 0)
    known = own * chunk + place
    x = tl.load(logits + row * row_stride + known, mask=known < vocabulary, other=float("-inf")) / temperature
    p = tl.exp(x - most)
    reached = tl.where((tl.cumsum(p, 0) > target) & (p > 0), place, chunk)
    inside = tl.minimum(tl.min(reached, 0), tl.max(tl.where(p > 0, place, 0), 0))
    token = (own * chunk + inside).to(tl.int64)
    tl.store(tokens + row * room + step, token)
    tl.store(logprobs + row * room + step, tl.sum(tl.where(place == inside, x, 0.0), 0) - most - tl.log(total))
    tl.store(following + row, token)
    tl.store(steps + row, step + 1)
    tl.store(positions + row, tl.load(positions + row) + 1)
    was_active = tl.load(active + row)
    tl.store(lengths + row, tl.load(lengths + row) + was_active)
    end = tl.arange(0, padded_ends)
    ended = tl.max((tl.load(ends + end, mask=end < num_ends, other=-1) == token).to(tl.int32), 0)
    tl.store(active + row, tl.where(ended > 0, 0, was_active))


def draw_next(
    logits_RV: Tensor, temperature: float, ends_E: Tensor, next_R: Tensor, positions_R: Tensor, steps_R: Tensor, active_R: Tensor,
    lengths_R: Tensor, uniforms_RT: Tensor, tokens_RT: Tensor, logprobs_RT: Tensor, *, chunk: int,
) -> None:  # fmt: skip
    """Draws a token of each row by inverting its cumulative distribution at the uniform of its step, and writes it down as
    `core.generators.answers.Answers` does; logits in fp32, read `chunk` tokens of the vocabulary at a time, a power of 2; `active_R` as
    bytes."""
    num_rows, vocabulary = logits_RV.shape
    chunks = triton.cdiv(vocabulary, chunk)
    maxima_RC, sums_RC = torch.empty(2, num_rows, chunks, dtype=torch.float32, device=logits_RV.device)
    sizes = (logits_RV.stride(0), vocabulary, chunks, float(temperature))
    _sum_chunks[(num_rows, triton.cdiv(chunks, TOGETHER))](logits_RV, maxima_RC, sums_RC, *sizes, chunk, TOGETHER, num_warps=4)
    _draw[(num_rows,)](
        logits_RV, maxima_RC, sums_RC, next_R, positions_R, steps_R, active_R, lengths_R, uniforms_RT, tokens_RT, logprobs_RT, ends_E,
        *sizes, tokens_RT.shape[1], len(ends_E), chunk, max(LEAST, triton.next_power_of_2(chunks)),
        max(LEAST, triton.next_power_of_2(len(ends_E))), num_warps=4,
    )  # fmt: skip
