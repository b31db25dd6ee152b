"""KL to the reference policy: estimators, their gradients, and the adaptive coefficient.

Shapes: B episodes, T tokens of a completion.
"""

import torch
from torch import Tensor

from ppo.config import KLConfig, KLEstimator

MAX_ERROR = 0.2
"""The adaptive coefficient responds to relative errors up to this (Ziegler et al. 2019, section 2.2)."""


def kl_estimate(logprobs_BT: Tensor, reference_BT: Tensor, estimator: KLEstimator) -> Tensor:
    """KL(policy || reference) per token from one sample, in nats (Schulman 2020, "Approximating KL divergence").

    With r = reference - logprobs: k1 = -r (unbiased, may be negative), k2 = r^2 / 2 (biased, low variance), k3 =
    exp(r) - 1 - r (unbiased, never negative).
    """
    log_ratio_BT = reference_BT - logprobs_BT
    match estimator:
        case KLEstimator.k1:
            return -log_ratio_BT
        case KLEstimator.k2:
            return log_ratio_BT.square() / 2
        case KLEstimator.k3:
            return torch.expm1(log_ratio_BT) - log_ratio_BT


def kl_loss(logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor, estimator: KLEstimator) -> Tensor:
    """Sum of k2 or k3 over the mask, to be differentiated with respect to the policy's parameters.

    A good estimate of the KL need not have a good gradient (Tang and Munos 2025, "On a few pitfalls in KL divergence
    gradient estimation for RL"). On tokens drawn by the policy itself, in expectation and token by token:

    - k1: the gradient of log p has mean zero, so it penalises nothing; refused with `ValueError`.
    - k2: log(p / q) times the gradient of log p, which is the gradient of KL(policy || reference) without bias.
    - k3: (1 - q / p) times the gradient of log p, which is the gradient of KL(reference || policy): another divergence,
      equal to the first to second order where the two policies are close.

    Both take each token's context as given, and neither is reweighted once the policy has moved from the one that drew.
    """
    if estimator == KLEstimator.k1:
        raise ValueError("kl.estimator=k1 has a gradient of zero in expectation in the loss; choose k2 (or k3), or kl.place=reward.")
    # Outside the mask is whatever the padding produced; a NaN there would survive multiplication by zero.
    kl_BT = kl_estimate(logprobs_BT, torch.where(mask_BT.bool(), reference_BT, logprobs_BT.detach()), estimator)
    return (kl_BT * mask_BT).sum()


def next_coefficient(coefficient: float, kl: float, config: KLConfig, *, num_episodes: int) -> float:
    """The coefficient after a batch of `num_episodes` whose mean KL was `kl` nats per completion.

    `config.beta` without a target. With one, Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences",
    section 2.2: the relative error of `kl`, clipped to +-0.2, times num_episodes / horizon (their K_beta) is the relative
    change of the coefficient.
    """
    if config.target is None:
        return coefficient
    error = min(max(kl / config.target - 1, -MAX_ERROR), MAX_ERROR)
    return coefficient * (1 + error * num_episodes / config.horizon)
