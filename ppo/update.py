"""The update: minibatch epochs over one batch of episodes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppo.advantages import Advantages
from ppo.config import PPOConfig
from ppo.loss import ppo_loss, value_loss
from ppo.model import ActorCritic
from ppo.rollout import Episodes


@dataclass(slots=True)
class _Sums:
    """Running sums over all tokens of all minibatches of an update."""

    tokens: float = 0.0
    policy_loss: float = 0.0
    value_loss: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0
    value_clipped: float = 0.0
    approx_kl: float = 0.0
    grad_norm: float = 0.0
    steps: int = 0


def update(
    model: Any,
    optimizer: Any,
    scheduler: Any,
    accelerator: Any,
    config: PPOConfig,
    episodes: Episodes,
    advantages: Advantages,
    *,
    seed: int,
) -> dict[str, float]:
    """`config.epochs` passes over the episodes in shuffled minibatches, one optimiser step each.

    Losses are means over the tokens of the whole minibatch, however it is split into micro batches. Returns the means
    over the update, and `first_ratio_error`: how far the first micro batch's ratios are from 1, which must be rounding.
    """
    sums, first_ratio_error = _Sums(), 0.0
    for rows in minibatches(len(episodes.scores_B), config, seed=seed):
        num_tokens = episodes.mask_BT[rows].sum().item()
        for micro in rows.split(config.micro_batch_size):
            with accelerator.autocast():
                loss, logprob_error = _micro_loss(model, config, episodes, advantages, micro, num_tokens, sums)
            if sums.steps == 0:
                first_ratio_error = max(first_ratio_error, logprob_error)
            accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), config.optim.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        sums.grad_norm += float(norm)
        sums.steps += 1
        sums.tokens += num_tokens
    return {
        "loss/policy": sums.policy_loss / sums.steps,
        "loss/value": sums.value_loss / sums.steps,
        "entropy": sums.entropy / sums.tokens,
        "clip_fraction": sums.clipped / sums.tokens,
        "value_clip_fraction": sums.value_clipped / sums.tokens,
        "approx_kl": sums.approx_kl / sums.tokens,
        "grad_norm": sums.grad_norm / sums.steps,
        "first_ratio_error": first_ratio_error,
    }


def minibatches(num_episodes: int, config: PPOConfig, *, seed: int) -> Iterator[Tensor]:
    """Indices of each minibatch of each epoch; every epoch is one permutation of all episodes."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(config.epochs):
        yield from torch.randperm(num_episodes, generator=draw).split(config.minibatch_size)


def _micro_loss(
    model: ActorCritic, config: PPOConfig, episodes: Episodes, advantages: Advantages, rows: Tensor, num_tokens: float, sums: _Sums
) -> tuple[Tensor, float]:
    """The share of one micro batch in the minibatch's loss, and the largest |ratio - 1| in it."""
    device = next(model.parameters()).device
    ids_BL, mask_BL, mask_BT = (t[rows].to(device) for t in (episodes.ids_BL, episodes.mask_BL, episodes.mask_BT))
    old_BT, old_values_BT = episodes.logprobs_BT[rows].to(device), episodes.values_BT[rows].to(device)
    advantages_BT, returns_BT = advantages.advantages_BT[rows].to(device), advantages.returns_BT[rows].to(device)

    logprobs_BT, entropy_BT, values_BT = model(ids_BL, mask_BL, episodes.num_tokens)
    policy = ppo_loss(logprobs_BT, old_BT, advantages_BT, mask_BT, clip=config.clip, dual_clip=config.dual_clip)
    value = value_loss(values_BT, old_values_BT, returns_BT, mask_BT, clip=config.value_clip)
    with torch.no_grad():
        log_ratio_BT = (logprobs_BT - old_BT) * mask_BT
        sums.policy_loss += policy.loss.item() / num_tokens
        sums.value_loss += value.loss.item() / num_tokens
        sums.entropy += (entropy_BT * mask_BT).sum().item()
        sums.clipped += policy.num_clipped.item()
        sums.value_clipped += value.num_clipped.item()
        sums.approx_kl += (torch.expm1(log_ratio_BT) - log_ratio_BT).sum().item()
        ratio_error = log_ratio_BT.expm1().abs().max().item()
    return (policy.loss + config.value_coef * value.loss) / num_tokens, ratio_error
