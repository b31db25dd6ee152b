"""The losses of PPO, as sums over tokens.

Sums, not means: the caller divides by the number of tokens of the global minibatch, so that the gradient is the same
however the minibatch is split.

Shapes: B episodes, T tokens of a completion.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOutput:
    """A policy loss summed over the mask, and the numbers of tokens at which the clip and the dual clip were active."""

    loss: Tensor
    num_clipped: Tensor
    num_dual_clipped: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueLossOutput:
    """A value loss summed over the mask, and the number of tokens at which the clip was active."""

    loss: Tensor
    num_clipped: Tensor


def ppo_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip: float,
    dual_clip: float | None = None,
    weights_BT: Tensor | None = None,
) -> LossOutput:
    """Clipped surrogate loss (Schulman et al. 2017, eq. 7), optionally with dual clip (Ye et al. 2020, eq. 5).

    `weights_BT`, if given, multiplies each token's loss after both clips (see `importance_weights`).
    """
    # Padding may overflow the exponential, and no mask removes a NaN afterwards.
    ratio_BT = torch.where(mask_BT.bool(), logprobs_BT - old_logprobs_BT, 0.0).exp()
    plain_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip)
    loss_BT = torch.maximum(plain_BT, clipped_BT)
    active_BT, dual_active_BT = clipped_BT > plain_BT, torch.zeros_like(mask_BT, dtype=torch.bool)
    if dual_clip is not None:
        bound_BT = -dual_clip * advantages_BT
        dual_active_BT = (advantages_BT < 0) & (loss_BT > bound_BT)
        loss_BT = torch.where(dual_active_BT, bound_BT, loss_BT)
    if weights_BT is not None:
        loss_BT = loss_BT * weights_BT
    return LossOutput(
        loss=(loss_BT * mask_BT).sum(), num_clipped=(active_BT * mask_BT).sum(), num_dual_clipped=(dual_active_BT * mask_BT).sum()
    )


def importance_weights(logprobs_BT: Tensor, engine_BT: Tensor, mask_BT: Tensor, *, cap: float) -> Tensor:
    """min(p_trainer / p_engine, cap) per token, 1 outside the mask and without gradient.

    Both are log-probabilities under the policy that sampled the tokens: `logprobs_BT` as computed by the trainer, `engine_BT`
    by the engine that sampled. Truncated importance sampling (Yao et al. 2025, "Your Efficient RL Framework Secretly
    Brings You Off-Policy RL Training"; truncation after Ionides 2008).
    """
    log_ratio_BT = torch.where(mask_BT.bool(), logprobs_BT - engine_BT, 0.0)
    return log_ratio_BT.detach().exp().clamp(max=cap)


def value_loss(values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, *, clip: float) -> ValueLossOutput:
    """Half the squared error of the values or of the values clipped to `old_values_BT` +- clip, whichever is larger."""
    clipped_values_BT = torch.clamp(values_BT, old_values_BT - clip, old_values_BT + clip)
    plain_BT = (values_BT - returns_BT).square()
    clipped_BT = (clipped_values_BT - returns_BT).square()
    loss_BT = 0.5 * torch.maximum(plain_BT, clipped_BT)
    return ValueLossOutput(loss=(loss_BT * mask_BT).sum(), num_clipped=((clipped_BT > plain_BT) * mask_BT).sum())
