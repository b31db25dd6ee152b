"""Rewards per token, generalised advantage estimation, whitening.

Shapes: B episodes, T tokens of a completion, 1 an axis of size one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Advantages:
    """Advantages and returns of shape (B, T); zero outside the mask."""

    advantages_BT: Tensor
    returns_BT: Tensor


def token_rewards(scores_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, *, beta: float) -> Tensor:
    """`-beta * kl` at every token of the completion, plus the score at its last one (Ouyang et al. 2022, eq. 2)."""
    rewards_BT = -beta * kl_BT * mask_BT
    last_B1 = (mask_BT.sum(-1, keepdim=True) - 1).long()
    return rewards_BT.scatter_add(-1, last_B1, scores_B[:, None])


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), with value 0 after the last token.

    `values_BT[:, t]` is the value of the state in which token t is chosen. Masks are 1 from the first token to the last
    and 0 after it. Returns are advantages + values, before any whitening.
    """
    mask_BT = mask_BT.to(values_BT.dtype)
    values_BT = values_BT * mask_BT
    next_values_BT = torch.cat([values_BT[:, 1:], torch.zeros_like(values_BT[:, :1])], -1)
    deltas_BT = (rewards_BT + gamma * next_values_BT - values_BT) * mask_BT
    columns: list[Tensor] = []
    carry_B = torch.zeros_like(values_BT[:, 0])
    for t in reversed(range(values_BT.shape[1])):
        carry_B = deltas_BT[:, t] + gamma * lam * carry_B
        columns.append(carry_B)
    advantages_BT = torch.stack(columns[::-1], -1) * mask_BT
    return Advantages(advantages_BT=advantages_BT, returns_BT=(advantages_BT + values_BT) * mask_BT)


def whiten(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Values shifted and scaled to mean 0 and variance 1 over the whole mask; zero outside it."""
    mask_BT = mask_BT.to(values_BT.dtype)
    count = mask_BT.sum()
    mean = (values_BT * mask_BT).sum() / count
    variance = ((values_BT - mean).square() * mask_BT).sum() / count
    return (values_BT - mean) * torch.rsqrt(variance + 1e-8) * mask_BT
