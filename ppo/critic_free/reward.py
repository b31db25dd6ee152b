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
from core.records import Dialogue
from core.scorers.weighted import WeightedScorer
from ppo.config import PPOConfig
from ppo.guards import guarded
from ppo.metrics import Metric, completion_metrics, shaped_metrics, tell_truncated
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
        """The shaped scores of a batch: `group_size` completions of a prompt, then those of the next. Called by TRL."""
        size = self.config.group_size
        dialogues = [parse_dialogue(prompt, "a prompt") for prompt in prompts[::size]]
        texts = answer_texts(self.tokenizer, completion_ids, self.ends)  # TRL's own may still hold the end of turn
        before = self.scorer.num_truncated or 0
        groups = [texts[start : start + size] for start in range(0, len(texts), size)]
        with guarded(self.run.dir, self.config.algo, self.state.step + 1):
            scores_B = score_groups(self.scorer, dialogues, groups)
        finished_B = torch.tensor([len(ids) > 0 and ids[-1] in self.ends for ids in completion_ids])
        lengths_B = torch.tensor([len(ids) for ids in completion_ids])
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
            self.state.metrics[Metric.TRUNCATED] = (self.scorer.num_truncated - before) / len(scores_B)
            tell_truncated(self.state.metrics, self.state.step + 1, self.run.say)
        self.shaped = shaped_metrics(shaped_B)
        return shaped_B.tolist()


def score_groups(scorer: WeightedScorer, prompts: Sequence[Dialogue], groups: Sequence[Sequence[str]]) -> Tensor:
    """The rewards of a group of completions for each prompt, of shape (B,). Raises `DivergenceError` if one is not finite."""
    with without_autocast():
        parts = scorer.parts(prompts, groups)
    terms = {name: torch.tensor([score for row in rows for score in row]) for name, rows in parts.items()}
    return combined_scores(scorer, terms)
