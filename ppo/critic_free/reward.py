"""The reward function for TRL's trainers: our scores, shaped as in PPO.

Shapes: B completions of all groups.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from core.data.dialogues import parse_dialogue
from core.data.turn_ends import answer_texts
from core.hooks.run_context import RunContext
from core.process.precision import without_autocast
from core.process.world import World
from core.records import Dialogue
from core.scorers.weighted import WeightedScorer
from ppo.config import PPOConfig
from ppo.guards import guarded
from ppo.metrics import Metric, completion_metrics, shaped_metrics
from ppo.rollout import combined_scores
from ppo.shaping import shaped_scores
from ppo.state import PPOState

Turns: TypeAlias = Sequence[Mapping[str, str]]
"""A dialogue as TRL passes it: `{"role": ..., "content": ...}` for each turn."""


class BatchReward:
    """Scores each rollout batch, and records its statistics and metrics in the run's state. `ends` are the ids that end a completion."""

    def __init__(
        self,
        config: PPOConfig,
        run: RunContext,
        state: PPOState,
        scorer: WeightedScorer,
        *,
        tokenizer: PreTrainedTokenizerBase,
        ends: frozenset[int],
    ) -> None:
        self.config, self.run, self.state, self.scorer = config, run, state, scorer
        self.tokenizer, self.ends = tokenizer, ends
        self.shaped: dict[str, float] = {}
        """Metrics of the shaped scores of the last batch."""

    def reward(self, prompts: Sequence[Turns], completion_ids: Sequence[Sequence[int]], **_: object) -> list[float]:
        """The shaped scores of a batch: `group_size` completions of a prompt, then those of the next. Called by TRL.

        Every process is given its part of the batch, which may begin within a group, and is to return the scores of that; all have the
        statistics and metrics of the whole.
        """
        world, size = self.run.world, self.config.group_size
        shares = world.all_gather(lambda: (list(prompts), [list(ids) for ids in completion_ids]))
        asked = [prompt for share, _ in shares for prompt in share][::size]
        ids_by_row = [ids for _, share in shares for ids in share]
        first = sum(len(share) for _, share in shares[: world.rank])
        dialogues = [parse_dialogue(prompt, "a prompt") for prompt in asked]
        texts = answer_texts(self.tokenizer, ids_by_row, self.ends)  # TRL's own may still hold the end of turn
        cut, skipped = self.scorer.num_truncated or 0, self.scorer.num_skipped or 0
        groups = [texts[start : start + size] for start in range(0, len(texts), size)]
        with guarded(self.run.dir, self.config.algo, self.state.step + 1):
            scores_B = score_groups(self.scorer, dialogues, groups, world)
        finished_B = torch.tensor([len(ids) > 0 and ids[-1] in self.ends for ids in ids_by_row])
        lengths_B = torch.tensor([len(ids) for ids in ids_by_row])
        self.state.statistics = self.state.statistics.seen(scores_B)
        shaped_B = shaped_scores(
            scores_B,
            finished_B=finished_B,
            lengths_B=lengths_B,
            max_length=self.config.max_new_tokens,
            config=self.config.shaping,
            statistics=self.state.statistics,
        )
        self.state.metrics = completion_metrics(scores_B, finished_B, lengths_B)
        if self.scorer.num_truncated is not None:
            [num_cut] = world.all_sum([self.scorer.num_truncated - cut])
            self.state.metrics[Metric.TRUNCATED] = num_cut / len(scores_B)
        if self.scorer.num_skipped is not None:
            [num_skipped] = world.all_sum([self.scorer.num_skipped - skipped])
            self.state.metrics[Metric.SKIPPED] = num_skipped / len(scores_B)
        self.shaped = shaped_metrics(shaped_B)
        return shaped_B.tolist()[first : first + len(completion_ids)]


def score_groups(scorer: WeightedScorer, prompts: Sequence[Dialogue], groups: Sequence[Sequence[str]], world: World) -> Tensor:
    """The rewards of a group of completions for each prompt, of shape (B,), of which each process scores its share.

    Raises `DivergenceError` if one is not finite.
    """
    own = world.shard(len(prompts))

    def scored() -> Mapping[str, list[list[float]]]:
        with without_autocast():
            return scorer.parts(prompts[own], groups[own])

    shares = world.all_gather(scored)
    terms = {name: torch.tensor([score for share in shares for row in share[name] for score in row]) for name in shares[0]}
    return combined_scores(scorer, terms)
