"""The clipped losses of PPO, as sums over tokens.

Sums, not means: the caller divides by the number of tokens of the global minibatch, so that the gradient is the same
however the minibatch is split.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOutput:
    """A loss summed over the mask, and the number of tokens at which the clip was active."""

    loss: Tensor
    num_clipped: Tensor


def ppo_loss(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, *, clip: float, dual_clip: float | None = None
) -> LossOutput:
    """Clipped surrogate loss (Schulman et al. 2017, eq. 7), optionally with dual clip (Ye et al. 2020, eq. 5)."""
    ratio_BT = torch.exp(logprobs_BT - old_logprobs_BT)
    plain_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip)
    loss_BT = torch.maximum(plain_BT, clipped_BT)
    active_BT = clipped_BT > plain_BT
    if dual_clip is not None:
        bound_BT = -dual_clip * advantages_BT
        loss_BT = torch.where(advantages_BT < 0, torch.minimum(loss_BT, bound_BT), loss_BT)
    return LossOutput(loss=(loss_BT * mask_BT).sum(), num_clipped=(active_BT * mask_BT).sum())


def value_loss(values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, *, clip: float) -> LossOutput:
    """Half the squared error, the larger of the plain one and that of values clipped to `old_values_BT` +- clip."""
    clipped_values_BT = torch.clamp(values_BT, old_values_BT - clip, old_values_BT + clip)
    plain_BT = (values_BT - returns_BT).square()
    clipped_BT = (clipped_values_BT - returns_BT).square()
    loss_BT = 0.5 * torch.maximum(plain_BT, clipped_BT)
    return LossOutput(loss=(loss_BT * mask_BT).sum(), num_clipped=((clipped_BT > plain_BT) * mask_BT).sum())
