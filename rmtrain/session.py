"""A reward model in training under its engine, and one optimiser step.

Shapes: B pairs, R token rows (two for each pair).
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.data.chat import pad_id, preamble
from core.data.template_check import described
from core.engines.engine import Engine, open_engine
from core.engines.optim import schedule
from core.models.head import RewardPass, RowGroups, padded_rewards, reward_obstacle, tree_rewards
from core.models.load import holds_fp32, new_reward_model
from core.models.mapped import first_layers
from core.models.positions import beyond_context, within_positions
from core.process.precision import without_autocast
from core.process.world import World
from core.progress import NoProgress, Progress
from core.records import Preference
from core.runs.warnings import RunWarning, few_steps, pairs_cut, pairs_dropped, pairs_equal
from core.transfer import to_device, to_host
from core.trees.attention import tree_attention
from rmtrain.batches import Order, micro_batches, num_steps, padded_micro_batches
from rmtrain.config import RewardModelConfig
from rmtrain.loss import bradley_terry_loss
from rmtrain.metrics import PairSums, pair_sums
from rmtrain.token_store import prepare
from rmtrain.tokens import LEFT_OUT, TokenPair, TokenPairs, listed, tokenize


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """The outcome of an optimiser step, the same on all processes: sums over the pairs of the global batch, and the gradient norm.

    `stop` is true if any process was told to stop, `overdue` if saving is overdue on any, so that all processes act alike.
    """

    sums: PairSums
    grad_norm: float
    stop: bool
    overdue: bool


class PairRewards(nn.Module):
    """A reward model as engines wrap it: maps `RowGroups`, such as pairs, to the rewards of their rows in fp32, shape (R,).

    A pair passes through the model as one prompt tree or, if `padding_reason` says why it cannot, padded.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, padding_reason: str | None) -> None:
        super().__init__()
        self.model, self.padding_reason = model, padding_reason
        self.preamble, self.pad_id = preamble(tokenizer), pad_id(tokenizer)

    def attention(self) -> AbstractContextManager[None]:
        """The context of forward and backward passes: with gradient checkpointing the backward pass runs the layers again."""
        return nullcontext() if self.padding_reason else tree_attention(self.model)

    def forward(self, batch: RowGroups) -> Tensor:
        if self.padding_reason or batch.padded:
            return padded_rewards(self.model, [row for rows in batch.groups for row in rows], self.pad_id, batch.types)
        return tree_rewards(self.model, batch.groups, self.preamble)


class RMSession:
    """A reward model under its engine, the tokenised pairs, and the order in which steps train on them."""

    def __init__(
        self,
        config: RewardModelConfig,
        preferences: Sequence[Preference],
        *,
        world: World,
        progress: Progress | None = None,
        say: Callable[[str], None] = print,
        warn: Callable[[RunWarning | None], None] = lambda warning: None,
    ) -> None:
        self.config, self.world = config, world
        self.model, self.tokenizer = new_reward_model(
            config.model, seed=config.seed, lora=config.lora, mapped=config.engine.shards_weights, say=say
        )
        max_length, bounded = within_positions(self.model, config.max_length)
        if bounded:
            say(bounded)
        if world.size > 1:  # made by the process that shows its progress, and found by the others
            world.from_main(lambda: prepare(preferences, self.tokenizer, progress or NoProgress()))
        self.tokens = tokenize(
            preferences,
            self.tokenizer,
            max_length=max_length,
            overlong=config.overlong,
            skip_broken=config.data.skip_broken,
            progress=progress,
        )
        self.pairs: Sequence[TokenPair] = self.tokens.pairs
        _report(self.tokens, preferences, max_length, say, warn)
        warning = beyond_context(self.model, self.tokens.pairs.longest)
        if warning:
            say(warning)
        if config.gradient_checkpointing:
            self.model.activation_checkpointing_enable()
        probe = first_layers(self.model) if config.engine.shards_weights else self.model
        self.rewards = PairRewards(self.model, self.tokenizer, padding_reason=reward_obstacle(probe, max_length))
        if self.rewards.padding_reason:
            say(f"training with padding: {self.rewards.padding_reason}")
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.num_weights = self.model.num_parameters(exclude_embeddings=True)
        groups = [{"params": trained, "lr": config.optim.lr}]
        self.engine: Engine = open_engine(
            config.engine,
            self.rewards,
            groups,
            optim=config.optim,
            dtype=config.model.dtype,
            world=world,
            hold=holds_fp32(config.model, config.lora),
        )
        self.order = Order(len(self.pairs), batch_size=config.batch_size, seed=config.seed)
        self.num_steps = num_steps(len(self.pairs), batch_size=config.batch_size, epochs=config.epochs)
        warn(few_steps(self.num_steps, num_pairs=len(self.pairs), batch_size=config.batch_size))
        self.has_margin = self.tokens.pairs.have_margins
        self.model.train()

    def step(self, step: int, *, stop: bool = False, overdue: bool = False) -> StepResult:
        """One optimiser step on the mean loss over the pairs of the global batch, however they are split into micro batches.

        `stop` and `overdue` are this process's own flags. Raises `ValueError` if the loss, the rewards or the gradient are not finite.
        """
        # An adapter's dropout depends on seed, step and process only, so that a resumed run repeats it.
        torch.manual_seed(hash((self.config.seed, step, self.world.rank)) % 2**63)
        fetch = self.accumulate([self.pairs[i] for i in self.order.batch(step)])
        grad_norm = self.engine.step(schedule(self.config.optim, step, self.num_steps))
        # One reduction for both: the sums, and the flags that all processes must agree on.
        *summed, num_stop, num_overdue = self.world.all_sum([*fetch().stacked().tolist(), float(stop), float(overdue)])
        sums = PairSums.unstacked(torch.tensor(summed, dtype=torch.float64))
        # The loss of an infinite margin is 0 or a NaN; the rewards tell.
        self._require_finite(step, (sums.loss / sums.num_pairs).item(), (sums.margin / sums.num_pairs).item(), grad_norm)
        return StepResult(sums=sums, grad_norm=grad_norm, stop=num_stop > 0, overdue=num_overdue > 0)

    def accumulate(self, batch: Sequence[TokenPair]) -> Callable[[], PairSums]:
        """Adds the gradient of this process's share of the batch's mean loss. The function returned waits for the sums over that share:
        to be called once the optimiser's work is queued, so that the device goes on meanwhile."""
        own_micro_batches = self._micro_batches(batch)
        sums: list[Tensor] = []
        # One context for all passes: autocast then casts the weights once a step.
        with self.rewards.attention(), self.engine.autocast():
            for number, indices in enumerate(own_micro_batches, 1):
                # With fewer pairs than processes, some run the first pair at weight zero: all must make the same number of passes.
                pairs = [batch[i] for i in indices] or [batch[0]]
                loss, measured = self._loss(pairs, share=len(indices) / len(batch))
                with without_autocast(self.world.device):  # the backward pass uses the dtypes of the forward pass
                    self.engine.backward(loss, last=number == len(own_micro_batches))
                if indices:
                    sums.append(measured.stacked())
        # One transfer from the device for all of them.
        fetch = to_host(torch.stack(sums).sum(0)) if sums else None
        return lambda: PairSums.zeros() if fetch is None else PairSums.unstacked(fetch())

    def reward_pass(self) -> RewardPass | None:
        """The forward pass that all processes must make together because each holds a part of the weights; None if each holds them all."""
        return RewardPass(rewards=self.engine.module, padding_reason=self.rewards.padding_reason) if self.engine.sharded else None

    def learning_rate(self, step: int) -> float:
        """The learning rate of step `step`."""
        return self.config.optim.lr * schedule(self.config.optim, step, self.num_steps)

    def epoch(self, step: int) -> float:
        """Passes over the data completed after step `step`."""
        return self.config.epochs * step / self.num_steps

    def _micro_batches(self, batch: Sequence[TokenPair]) -> list[list[int]]:
        """The micro batches of this process, as indices into the batch."""
        config, processes = self.config, self.world.size
        if self.rewards.padding_reason:
            sizes, plan = [max(len(pair.chosen), len(pair.rejected)) for pair in batch], padded_micro_batches
        else:
            sizes, plan = [num_unique_tokens(pair) for pair in batch], micro_batches
        return plan(sizes, budget=config.micro_batch_tokens, max_pairs=config.micro_batch_size, processes=processes)[self.world.rank]

    def _loss(self, pairs: Sequence[TokenPair], *, share: float) -> tuple[Tensor, PairSums]:
        """The pairs' share of the global batch's mean loss, and the sums to log."""
        batch = RowGroups(groups=[(pair.chosen, pair.rejected) for pair in pairs])
        with self.engine.autocast():
            rewards_R = self.engine.module(batch)
        chosen_B, rejected_B = rewards_R.view(-1, 2).unbind(1)
        margin_B = to_device(torch.tensor([pair.margin for pair in pairs]), rewards_R.device) if self.has_margin else None
        config = self.config
        mean = bradley_terry_loss(chosen_B, rejected_B, margin_B=margin_B, label_smoothing=config.label_smoothing, center=config.center)
        sums = pair_sums(
            mean.detach() * len(pairs),
            chosen_B.detach(),
            rejected_B.detach(),
            num_tokens=sum(len(pair.chosen) + len(pair.rejected) for pair in pairs),
            num_unique_tokens=sum(num_unique_tokens(pair) for pair in pairs),
        )
        return mean * share, sums

    def _require_finite(self, step: int, loss: float, margin: float, norm: float) -> None:
        if not all(map(math.isfinite, (loss, margin, norm))):
            raise ValueError(
                f"step {step}: the loss is {loss}, the margin {margin} and the gradient norm {norm}. Training stops; earlier checkpoints "
                f"are kept. Lower optim.lr={self.config.optim.lr:g} or optim.max_grad_norm={self.config.optim.max_grad_norm:g}, or add "
                "warmup, which makes it a new run in a folder of its own."
            )


def num_unique_tokens(pair: TokenPair) -> int:
    """Tokens of a pair, counting the common beginning once."""
    shorter = min(len(pair.chosen), len(pair.rejected))
    parted = np.flatnonzero(pair.chosen[:shorter] != pair.rejected[:shorter])
    shared = int(parted[0]) if len(parted) else shorter
    return len(pair.chosen) + len(pair.rejected) - shared


def _report(
    tokens: TokenPairs,
    preferences: Sequence[Preference],
    max_length: int,
    say: Callable[[str], None],
    warn: Callable[[RunWarning | None], None],
) -> None:
    """Says what was left out of the data, and of its pairs; a warning where it is much."""
    limit, num_pairs = f"max_length={max_length} tokens", len(preferences)
    if tokens.broken:
        say(listed(tokens.broken, preferences, LEFT_OUT))
    found = (
        (tokens.num_equal, pairs_equal(tokens.num_equal, num_pairs), "dropped {} pairs whose chosen and rejected are the same tokens"),
        (
            tokens.num_dropped,
            pairs_dropped(tokens.num_dropped, num_pairs, max_length=max_length),
            f"dropped {{}} pairs longer than {limit}",
        ),
        (
            tokens.num_cut,
            pairs_cut(tokens.num_cut, num_pairs, max_length=max_length),
            f"cut the prompts of {{}} pairs at their beginning, to {limit}",
        ),
    )
    for num, warning, line in found:
        if warning:
            warn(warning)
        elif num:
            say(line.format(f"{num} of {num_pairs}"))
    for line in described(tokens.lost, num_pairs, "pairs"):
        say(line)
