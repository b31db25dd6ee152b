"""Attention of one new token in each row to its row's keys and values, in Triton.

Imported only where it runs, since torch brings Triton along for GPUs alone.
"""

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


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    q, k, v, keys, values, positions, out, factor, length, q_head, q_row, k_head, k_row, v_head, v_row, key_heads,
    group: tl.constexpr, padded: tl.constexpr, channels: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0) // key_heads, tl.program_id(0) % key_heads
    place = tl.load(positions + row).to(tl.int32)
    channel, member, ahead = tl.arange(0, channels), tl.arange(0, padded), tl.arange(0, step)
    inside = (member < group)[:, None]
    own_k, own_v = tl.load(k + row * k_row + head * k_head + channel), tl.load(v + row * v_row + head * v_head + channel)
    first = tl.program_id(0).to(tl.int64) * length * channels
    tl.store(keys + first + place * channels + channel, own_k)
    tl.store(values + first + place * channels + channel, own_v)
    queries = tl.load(q + row * q_row + (head * group + member)[:, None] * q_head + channel[None, :], mask=inside, other=0.0)
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
    query_HRD: Tensor, key_JRD: Tensor, value_JRD: Tensor, keys_RJLD: Tensor, values_RJLD: Tensor, positions_R: Tensor, scaling: float
) -> Tensor:
    """Writes the new keys and values at the rows' positions; returns the attention of the new tokens to all up to them, (R, H, D)."""
    num_rows, key_heads, length, channels = keys_RJLD.shape
    parts = [part if part.stride(-1) == 1 else part.contiguous() for part in (query_HRD, key_JRD, value_JRD)]
    out_RHD = torch.empty(num_rows, len(query_HRD), channels, dtype=values_RJLD.dtype, device=values_RJLD.device)
    group = len(query_HRD) // key_heads
    _attend[(num_rows * key_heads,)](
        *parts, keys_RJLD, values_RJLD, positions_R, out_RHD, scaling * LOG2_E, length,
        *(part.stride(dim) for part in parts for dim in (0, 1)), key_heads,
        group, max(LEAST, triton.next_power_of_2(group)), channels, STEP, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out_RHD
