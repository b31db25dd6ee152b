"""The update: epochs of minibatches over one batch of episodes.

Shapes: B episodes, T tokens of a completion, L tokens of prompt and completion, K sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from core.engines.engine import Engine
from core.engines.optim import schedule
from core.process.precision import without_autocast
from core.process.world import World
from core.transfer import to_device, to_host
from ppo.advantages import Advantages
from ppo.config import KLPlace, PPOConfig
from ppo.guards import require_finite_step
from ppo.kl import kl_loss
from ppo.loss import importance_weights, ppo_loss, value_loss
from ppo.metrics import NUM_SUMS, TokenSums, update_metrics
from ppo.model import Networks
from ppo.rollout import Episodes

ROUNDING = 1e-3
"""The mean difference in nats, between the engine's log-probabilities and the trainer's, up to which no weights correct for it: in fp32
it is 1e-6, in bf16 5e-3 and more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """What the losses of some rows are computed from, all of shape (B, T)."""

    mask_BT: Tensor
    old_logprobs_BT: Tensor
    reference_BT: Tensor
    engine_logprobs_BT: Tensor | None
    old_values_BT: Tensor
    advantages_BT: Tensor
    returns_BT: Tensor

    @classmethod
    def whole(cls, episodes: Episodes, advantages: Advantages, device: torch.device) -> "MicroBatch":
        """All rows of a batch, on the device: copied once, since every copy makes the host wait.

        The engine's log-probabilities are left out if they differ from the trainer's by rounding alone.
        """
        engine_BT = episodes.engine_logprobs_BT if (episodes.importance_gap or 0.0) > ROUNDING else None
        return cls(
            mask_BT=to_device(episodes.mask_BT, device),
            old_logprobs_BT=to_device(episodes.logprobs_BT, device),
            reference_BT=to_device(episodes.reference_BT, device),
            engine_logprobs_BT=None if engine_BT is None else to_device(engine_BT, device),
            old_values_BT=to_device(episodes.values_BT, device),
            advantages_BT=to_device(advantages.advantages_BT, device),
            returns_BT=to_device(advantages.returns_BT, device),
        )

    def part(self, rows: Tensor) -> "MicroBatch":
        """The rows with these indices, which lie on the same device."""
        return MicroBatch(
            mask_BT=self.mask_BT[rows],
            old_logprobs_BT=self.old_logprobs_BT[rows],
            reference_BT=self.reference_BT[rows],
            engine_logprobs_BT=None if self.engine_logprobs_BT is None else self.engine_logprobs_BT[rows],
            old_values_BT=self.old_values_BT[rows],
            advantages_BT=self.advantages_BT[rows],
            returns_BT=self.returns_BT[rows],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TotalLoss:
    """The loss of a micro batch summed over its tokens, the sums that are logged, and its largest |ratio - 1|."""

    loss: Tensor
    sums: TokenSums
    max_ratio_error: Tensor


def update(
    engine: Engine, world: World, config: PPOConfig, episodes: Episodes, advantages: Advantages, *, step: int, kl_coef: float
) -> dict[str, float]:
    """`config.epochs` passes over the episodes in shuffled minibatches, one optimiser step each.

    Losses are means over the tokens of the whole minibatch, however it is split over processes and micro batches. During the
    value warm-up the engine's group "actor" is frozen: AdamW changes neither its parameters nor its moments.

    Returns means over the tokens of the update, and `first_ratio_error`: how far the first minibatch's ratios are from 1,
    which only rounding may cause. Raises `DivergenceError` at a step whose loss or gradient is not finite.
    """
    train_policy = step > config.value_warmup
    targets = MicroBatch.whole(episodes, advantages, world.device)
    sums_K = torch.zeros(NUM_SUMS, dtype=torch.float64, device=world.device)  # on the device: no transfer per micro batch
    first_ratio_error = torch.zeros((), device=world.device)
    num_tokens, norms = 0.0, list[float]()
    for rows in minibatches(len(episodes.scores_B), config, seed=config.batch_seed(step)):
        tokens = episodes.mask_BT[rows].sum().item()
        minibatch_loss = torch.zeros((), dtype=torch.float64, device=world.device)
        micro_batches = rows[world.rank :: world.size].split(config.micro_batch_size)
        # One context for all of them: autocast then casts the weights once a step.
        with engine.autocast():
            for number, micro in enumerate(micro_batches, 1):
                total = _micro_loss(engine.module, config, episodes, targets, micro, kl_coef, train_policy)
                with without_autocast(world.device):  # the backward pass uses the dtypes of the forward pass
                    engine.backward(total.loss / tokens, last=number == len(micro_batches))
                minibatch_loss += total.loss.detach() / tokens
                sums_K += total.sums.stacked()
                if not norms:
                    first_ratio_error = torch.maximum(first_ratio_error, total.max_ratio_error)
        done = (step - 1) * config.updates_per_batch + len(norms) + 1
        loss = to_host(minibatch_loss)  # on its way before the optimiser's work is queued, for which nobody need wait
        norms.append(engine.step(schedule(config.optim, done, config.num_updates), frozen_groups=() if train_policy else ("actor",)))
        require_finite_step(world.all_sum([loss().item()])[0], norms[-1])
        num_tokens += tokens
    return update_metrics(
        TokenSums.unstacked(torch.tensor(world.all_sum(sums_K.tolist()), dtype=torch.float64)),
        num_tokens,
        grad_norms=norms,
        first_ratio_error=max(world.all_gather(first_ratio_error.item)),
    )


def minibatches(num_episodes: int, config: PPOConfig, *, seed: int) -> Iterator[Tensor]:
    """Indices of each minibatch of each epoch; every epoch is one permutation of all episodes."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(config.epochs):
        yield from torch.randperm(num_episodes, generator=draw).split(config.minibatch_size)


def total_loss(
    logprobs_BT: Tensor, entropy_BT: Tensor, values_BT: Tensor, batch: MicroBatch, config: PPOConfig, *, kl_coef: float, train_policy: bool
) -> TotalLoss:
    """The loss summed over the tokens of a micro batch, with the sums that are logged.

    policy loss + kl_coef * KL (if kl.place=loss) - entropy_coef * entropy + value_coef * value loss; the first three have
    weight zero unless `train_policy`.
    """
    mask_BT = batch.mask_BT
    weights_BT = None
    if config.importance_cap is not None and batch.engine_logprobs_BT is not None:
        weights_BT = importance_weights(batch.old_logprobs_BT, batch.engine_logprobs_BT, mask_BT, cap=config.importance_cap)
    policy = ppo_loss(
        logprobs_BT,
        batch.old_logprobs_BT,
        batch.advantages_BT,
        mask_BT,
        clip=config.clip,
        dual_clip=config.dual_clip,
        weights_BT=weights_BT,
    )
    value = value_loss(values_BT, batch.old_values_BT, batch.returns_BT, mask_BT, clip=config.value_clip)
    entropy = torch.where(mask_BT.bool(), entropy_BT, 0.0).sum()
    kl = logprobs_BT.new_zeros(())
    if config.kl.place == KLPlace.loss:
        kl = kl_loss(logprobs_BT, batch.reference_BT, mask_BT, config.kl.estimator)
    # At weight zero rather than left out: with several processes, engines wait for a gradient of every parameter.
    loss = config.value_coef * value.loss + float(train_policy) * (policy.loss + kl_coef * kl - config.entropy_coef * entropy)
    with torch.no_grad():
        log_ratio_BT = torch.where(mask_BT.bool(), logprobs_BT - batch.old_logprobs_BT, 0.0)
        sums = TokenSums(
            policy_loss=policy.loss,
            value_loss=value.loss,
            entropy=entropy,
            kl_loss=kl,
            num_clipped=policy.num_clipped,
            num_dual_clipped=policy.num_dual_clipped,
            num_values_clipped=value.num_clipped,
            importance_weight=mask_BT.sum() if weights_BT is None else (weights_BT * mask_BT).sum(),
            approx_kl=(torch.expm1(log_ratio_BT) - log_ratio_BT).sum(),
        )
        max_ratio_error = log_ratio_BT.expm1().abs().max()
    return TotalLoss(loss=loss, sums=sums, max_ratio_error=max_ratio_error)


def _micro_loss(
    networks: Networks, config: PPOConfig, episodes: Episodes, targets: MicroBatch, rows: Tensor, kl_coef: float, train_policy: bool
) -> TotalLoss:
    # Ids stay on the host, where they are laid out.
    ids_BL, mask_BL = episodes.ids_BL[rows], episodes.mask_BL[rows]
    output = networks(ids_BL, mask_BL, episodes.num_tokens, entropy_gradient=config.entropy_coef > 0)
    batch = targets.part(to_device(rows, targets.mask_BT.device))
    return total_loss(output.logprobs_BT, output.entropy_BT, output.values_BT, batch, config, kl_coef=kl_coef, train_policy=train_policy)
