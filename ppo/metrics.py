"""What policy training logs: name, unit and source of every metric, and how it is computed.

Shapes: B episodes, T tokens of a completion, N tokens inside the mask, K sums of an update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

import torch
from torch import Tensor

from core.hooks.run_context import RunContext
from core.runs.warnings import EQUAL, answers_cut, answers_skipped, equal_scores, kl_jump, reward_texts_cut
from ppo.advantages import Advantages
from ppo.config import KLEstimator, MissingEOS, PPOConfig
from ppo.kl import kl_estimate
from ppo.rollout import Episodes


class Metric(StrEnum):
    """The names, as logged under `train/`; those of the last rollout are also logged with the checkpoint, without a prefix.

    In addition: `reward/<term>`, the mean raw score of each term of a reward that has several, and `seconds/<part>`, the
    wall-clock time of each part of a batch on the slowest process.
    """

    KL = "kl"
    """KL(policy || reference) in nats per completion: k1 summed over tokens, mean over episodes (Schulman 2020)."""
    KL_K3 = "kl_k3"
    """The same by k3, which is never negative."""
    KL_COEF = "kl_coef"
    """Coefficient of the KL penalty in this batch; how it adapts: Ziegler et al. 2019, section 2.2."""
    RM_SCORE = "rm_score"
    """Mean reward before shaping, in the scorer's units."""
    RM_SCORE_STD = "rm_score_std"
    """Its standard deviation over the episodes (population)."""
    SCORE = "score"
    """Mean reward after shaping (`ppo.shaping`), which the policy is trained on."""
    SCORE_STD = "score_std"
    """Its standard deviation over the episodes (population)."""
    LENGTH = "length"
    """Mean tokens per completion, EOS included."""
    EOS_RATE = "eos_rate"
    """Share of the completions that ended with EOS, before the token limit."""
    TRUNCATED = "truncated"
    """Texts that reward models cut to their length limit, divided by the number of completions; logged if any model could cut."""
    SKIPPED = "skipped"
    """Answers that a verifier could not judge, divided by the number of completions; logged if any reward is a verifier."""
    IMPORTANCE_GAP = "importance_gap"
    """Mean over tokens of |logprob in the trainer - logprob in the engine that sampled|, in nats, if the engine reports it."""
    ADVANTAGE = "advantage"
    """Mean over tokens of the advantages before whitening, in units of the shaped score (Schulman et al. 2016, eq. 16)."""
    ADVANTAGE_STD = "advantage_std"
    """Their standard deviation over tokens (population)."""
    RETURN = "return"
    """Mean over tokens of the critic's targets, in units of the shaped score."""
    EXPLAINED_VARIANCE = "explained_variance"
    """1 - Var(returns - values) / Var(returns) over tokens: 1 for a perfect critic, 0 for a constant one."""
    POLICY_LOSS = "loss/policy"
    """Clipped surrogate, mean over the tokens of the update (Schulman et al. 2017, eq. 7)."""
    VALUE_LOSS = "loss/value"
    """Half the squared error of the critic, mean over the tokens of the update."""
    KL_LOSS = "loss/kl"
    """The KL term without its coefficient, mean over tokens; 0 if the KL is part of the reward."""
    ENTROPY = "entropy"
    """Entropy of the policy's next-token distribution in nats, mean over the tokens of the update."""
    CLIP_FRACTION = "clip_fraction"
    """Share of the update's tokens at which the clip of the ratio was active."""
    DUAL_CLIP_FRACTION = "dual_clip_fraction"
    """Share of the update's tokens at which the dual clip was active (Ye et al. 2020, eq. 5)."""
    VALUE_CLIP_FRACTION = "value_clip_fraction"
    """Share of the update's tokens at which the clip of the values was active."""
    IMPORTANCE_WEIGHT = "importance_weight"
    """Mean over tokens of the capped ratio of the trainer's probability to the sampling engine's; 1 without a correction."""
    APPROX_KL = "approx_kl"
    """KL between the policy that sampled and the one in training, by k3, in nats per token, mean over the update."""
    GRAD_NORM = "grad_norm"
    """L2 norm of the gradient before clipping, mean over the optimiser steps of the batch."""
    FIRST_RATIO_ERROR = "first_ratio_error"
    """Largest |ratio - 1| in the first minibatch, where only rounding may cause it."""
    LR = "lr"
    """Learning rate of the policy in the batch's last update; 0 while `value_warmup` keeps it still."""
    CRITIC_LR = "critic_lr"
    """Learning rate of the critic in the batch's last update."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSums:
    """Sums over the tokens of a micro batch or of a whole update; each is a scalar tensor."""

    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor
    kl_loss: Tensor
    num_clipped: Tensor
    num_dual_clipped: Tensor
    num_values_clipped: Tensor
    importance_weight: Tensor
    approx_kl: Tensor

    def stacked(self) -> Tensor:
        """All sums in one tensor of shape (K,), in fp64 and detached."""
        return torch.stack([getattr(self, field.name).detach().double() for field in fields(self)])

    @classmethod
    def unstacked(cls, sums_K: Tensor) -> "TokenSums":
        """The inverse of `stacked`."""
        return cls(**{field.name: value for field, value in zip(fields(cls), sums_K, strict=True)})


NUM_SUMS = len(fields(TokenSums))


def completion_metrics(scores_B: Tensor, finished_B: Tensor, lengths_B: Tensor) -> dict[str, float]:
    """Raw score, length and EOS rate of a rollout by any trainer."""
    return {
        Metric.RM_SCORE: scores_B.mean().item(),
        Metric.RM_SCORE_STD: scores_B.std(correction=0).item(),
        Metric.LENGTH: lengths_B.float().mean().item(),
        Metric.EOS_RATE: finished_B.float().mean().item(),
    }


def rollout_metrics(episodes: Episodes) -> dict[str, float]:
    """What is measured in a rollout before rewards are shaped: KL, scores, lengths, seconds and, if known, `importance_gap`."""
    mask_BT = episodes.mask_BT
    k1_B = (kl_estimate(episodes.logprobs_BT, episodes.reference_BT, KLEstimator.k1) * mask_BT).sum(-1)
    k3_B = (kl_estimate(episodes.logprobs_BT, episodes.reference_BT, KLEstimator.k3) * mask_BT).sum(-1)
    metrics: dict[str, float] = {
        Metric.KL: k1_B.mean().item(),
        Metric.KL_K3: k3_B.mean().item(),
        **completion_metrics(episodes.scores_B, episodes.finished_B, episodes.lengths_B),
        **({f"reward/{name}": scores_B.mean().item() for name, scores_B in episodes.terms.items()} if len(episodes.terms) > 1 else {}),
        **{f"seconds/{part}": seconds for part, seconds in episodes.seconds.items()},
    }
    if episodes.num_truncated is not None:
        metrics[Metric.TRUNCATED] = episodes.num_truncated / len(episodes.scores_B)
    if episodes.num_skipped is not None:
        metrics[Metric.SKIPPED] = episodes.num_skipped / len(episodes.scores_B)
    if episodes.importance_gap is not None:
        metrics[Metric.IMPORTANCE_GAP] = episodes.importance_gap
    return metrics


class BatchWatch:
    """Looks at the metrics of each batch for what makes training pointless in silence, and warns through the run's context."""

    def __init__(self, config: PPOConfig, context: RunContext, *, kl: float, num_equal: int = 0) -> None:
        """`kl` is that of the last batch before, 0 for an untrained policy; `num_equal` batches before had equal scores."""
        self.config, self.context = config, context
        self._kl, self.num_equal = kl, num_equal

    def see(self, measured: Mapping[str, float], step: int) -> None:
        """Takes the metrics of batch `step`: those of the rollout, and of the shaped scores if there are any (not in batch 0)."""
        eos_rate, warn = measured[Metric.EOS_RATE], self.context.warn
        where = "before training" if step == 0 else f"in batch {step}"
        warn(answers_cut(eos_rate, where=where, key="max_new_tokens", limit=self.config.max_new_tokens))
        warn(reward_texts_cut(measured.get(Metric.TRUNCATED, 0.0), batch=step))
        warn(answers_skipped(measured.get(Metric.SKIPPED, 0.0), batch=step))
        if measured.get(Metric.SCORE_STD, EQUAL) < EQUAL:
            self.num_equal += 1
            penalised = self.config.shaping.missing_eos.how == MissingEOS.replace
            warn(equal_scores(self.num_equal, step, batch=step, eos_rate=eos_rate, penalised=penalised))
        warn(kl_jump(measured[Metric.KL], self._kl, batch=step))
        self._kl = measured[Metric.KL]


def live_note(measured: Mapping[str, float]) -> str:
    """What the live line says of the last batch."""
    parts = [f"score {measured[Metric.RM_SCORE]:.3g}", f"KL {measured[Metric.KL]:.3g}", f"{measured[Metric.LENGTH]:.0f} tokens"]
    parts.append(f"{measured[Metric.EOS_RATE]:.0%} ended")
    if rollout := measured.get("seconds/generation"):
        parts.append(f"rollout {rollout:.1f} s")
    return ", ".join(parts)


def shaped_metrics(scores_B: Tensor) -> dict[str, float]:
    """Mean and standard deviation of the shaped scores."""
    return {Metric.SCORE: scores_B.mean().item(), Metric.SCORE_STD: scores_B.std(correction=0).item()}


def batch_metrics(episodes: Episodes, scores_B: Tensor, advantages: Advantages) -> dict[str, float]:
    """The shaped scores, the advantages before whitening, the returns, and how much of their variance the critic explains."""
    inside_BT = episodes.mask_BT.bool()
    advantages_N, returns_N = advantages.advantages_BT[inside_BT], advantages.returns_BT[inside_BT]
    return {
        **shaped_metrics(scores_B),
        Metric.ADVANTAGE: advantages_N.mean().item(),
        Metric.ADVANTAGE_STD: advantages_N.std(correction=0).item(),
        Metric.RETURN: returns_N.mean().item(),
        Metric.EXPLAINED_VARIANCE: explained_variance(returns_N, episodes.values_BT[inside_BT]),
    }


def explained_variance(returns_N: Tensor, values_N: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns)."""
    return (1 - (returns_N - values_N).var() / returns_N.var().clamp(min=1e-12)).item()


def update_metrics(sums: TokenSums, num_tokens: float, *, grad_norms: Sequence[float], first_ratio_error: float) -> dict[str, float]:
    """Means over the `num_tokens` tokens of an update, given their sums over all its steps and processes."""

    def mean(total: Tensor) -> float:
        return total.item() / num_tokens

    return {
        Metric.POLICY_LOSS: mean(sums.policy_loss),
        Metric.VALUE_LOSS: mean(sums.value_loss),
        Metric.KL_LOSS: mean(sums.kl_loss),
        Metric.ENTROPY: mean(sums.entropy),
        Metric.CLIP_FRACTION: mean(sums.num_clipped),
        Metric.DUAL_CLIP_FRACTION: mean(sums.num_dual_clipped),
        Metric.VALUE_CLIP_FRACTION: mean(sums.num_values_clipped),
        Metric.IMPORTANCE_WEIGHT: mean(sums.importance_weight),
        Metric.APPROX_KL: mean(sums.approx_kl),
        Metric.GRAD_NORM: sum(grad_norms) / len(grad_norms),
        Metric.FIRST_RATIO_ERROR: first_ratio_error,
    }
