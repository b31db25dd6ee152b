"""Reward models as Scorers.

Shapes: R sequences.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.data.chat import pad_id, preamble
from core.data.token_rows import TokenRows, token_rows
from core.models.head import RewardPass, RowGroups, padded_rewards, reward_obstacle, tree_rewards
from core.models.positions import beyond_context, within_positions
from core.process.world import World, alone, in_step
from core.progress import NoProgress, Progress
from core.records import Answer, CompletionScore, Dialogue
from core.scorers.batches import read_batches
from core.trees.attention import declared_obstacle
from core.trees.layout import TokenIds


class RewardModelScorer:
    """Scores with a sequence classifier with one output, on text rendered by the classifier's own chat template.

    The completions of a prompt go through the model as one prompt tree (`core.trees.layout`) where the architecture allows it;
    otherwise rows are sorted by length and right-padded, and `say` gets the reason. Scores depend neither on the batch size nor
    on the order of the rows, up to rounding in element-wise kernels: below 1e-5 in fp32 on trees, and mostly zero.
    `num_truncated` counts the rows truncated to `max_length` tokens, or to the positions that the model has learned if they are
    fewer; `say` is told of that, and once of rows beyond the context of a model with rotary positions.

    With `world`, all its processes call it together with the same rows: each scores its share, and all get all rewards, the same
    to the bit as one process does. A model whose weights are split over them is read by its `reward_pass`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 16384,
        max_length: int = 2048,
        progress: Progress | None = None,
        say: Callable[[str], None] = print,
        world: World | None = None,
        reward_pass: RewardPass | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._world, self._reward_pass = world or alone(), reward_pass
        self.batch_tokens = batch_tokens
        self.max_length, bounded = within_positions(model, max_length)
        self.num_truncated = 0
        self.preamble = preamble(tokenizer)
        if reward_pass is None:
            self.padding_reason = reward_obstacle(model, self.max_length)
        else:  # a process alone cannot try it
            self.padding_reason = reward_pass.padding_reason or declared_obstacle(model, self.max_length)
        self.progress = progress or NoProgress()
        self._say, self._has_warned, self._lost = say, False, set[str]()
        if bounded:
            say(bounded)
        if self.padding_reason:
            say(f"scoring with padding: {self.padding_reason}")
        if tokenizer.chat_template is None:
            say("the model has no chat template: question and answer are scored as a pair of texts")

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[Answer]]) -> list[list[float]]:
        """One list of rewards per prompt, one reward per completion, in the order given."""
        return [[scored.reward for scored in row] for row in self.score_detailed(prompts, completions)]

    @torch.no_grad()
    def score_detailed(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[Answer]]) -> list[list[CompletionScore]]:
        """As `score`, with the number of tokens behind each score."""
        texts = token_rows(self.tokenizer, prompts, completions, self.max_length)
        self._warn_of_context(max(map(len, texts.rows), default=0))
        if self._reward_pass is not None:
            self._world.all_gather(lambda: None)  # who has failed by now can be told of; in the passes nobody can
        rewards = [0.0] * len(texts.rows)
        self.progress.start("scoring", len(rewards))
        for share in self._world.all_gather(lambda: self._own_rewards(texts)):
            for indices, found in share:
                for i, reward in zip(indices, found, strict=True):
                    rewards[i] = reward
        self.progress.finish()
        self.num_truncated += sum(texts.truncated)
        texts.say_lost(self._lost, self._say)
        return texts.completion_scores(rewards)

    def _own_rewards(self, texts: TokenRows) -> list[tuple[list[int], list[float]]]:
        """Indices and rewards of the rows that this process reads."""
        batches = read_batches(
            self.model,
            texts,
            self.batch_tokens,
            padded=self.padding_reason is not None,
            read_padded=lambda indices: self._padded(texts, indices),
            read_packed=lambda indices, groups: self._packed(groups),
            world=self._world,
        )
        found: list[tuple[list[int], list[float]]] = []
        with nullcontext() if self._reward_pass is None else in_step():
            for indices, rewards_R in batches:
                found.append((indices, rewards_R.tolist()))
                self.progress.advance(len(indices))
        return found

    def _packed(self, groups: Sequence[Sequence[TokenIds]]) -> Tensor:
        if self._reward_pass is not None:
            return self._reward_pass.rewards(RowGroups(groups=groups))
        return tree_rewards(self.model, groups, self.preamble)

    def _padded(self, texts: TokenRows, indices: Sequence[int]) -> Tensor:
        rows = [texts.rows[i] for i in indices]
        types = None if texts.types is None else [texts.types[i] for i in indices]
        if self._reward_pass is not None:
            return self._reward_pass.rewards(RowGroups(groups=[rows], padded=True, types=types))
        return padded_rewards(self.model, rows, pad_id(self.tokenizer), types)

    def _warn_of_context(self, longest: int) -> None:
        warning = beyond_context(self.model, longest)
        if warning and not self._has_warned:
            self._has_warned = True
            self._say(warning)
