"""Reward models as Scorers."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.data.chat import pad_id, preamble
from core.data.padding import token_budget_batches
from core.data.token_rows import TokenRows, token_rows
from core.models.head import padded_rewards, reward_obstacle, tree_rewards
from core.progress import NoProgress, Progress
from core.records import CompletionScore, Dialogue
from core.trees.attention import tree_attention
from core.trees.layout import tree_batches


class RewardModelScorer:
    """Scores with a sequence classifier of one output, on text rendered by the classifier's own template.

    The completions of a prompt go through the model as one prompt tree (`core.trees.layout`), where the architecture allows it;
    else rows are sorted by length and padded at the end under an attention mask, and `say` gets a line with the reason.
    A score depends neither on the batch size nor on the order; on trees what is left of it in fp32 are single roundings of
    element-wise kernels, below 1e-5, and mostly nothing.
    `num_truncated` counts the rows cut at their end to `max_length` tokens.
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
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.batch_tokens, self.max_length = batch_tokens, max_length
        self.num_truncated = 0
        self.preamble = preamble(tokenizer)
        self.padding_reason = reward_obstacle(model, max_length)
        self.progress = progress or NoProgress()
        if self.padding_reason:
            say(f"scoring with padding: {self.padding_reason}")

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of rewards per prompt, one reward per completion, in the order given."""
        return [[scored.reward for scored in row] for row in self.score_detailed(prompts, completions)]

    @torch.no_grad()
    def score_detailed(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[CompletionScore]]:
        """As `score`, with the number of tokens behind each score."""
        texts = token_rows(self.tokenizer, prompts, completions, self.max_length)
        rewards = [0.0] * len(texts.rows)
        self.progress.start("scoring", len(rewards))
        for numbers, rewards_R in self._batches(texts):
            for i, reward in zip(numbers, rewards_R.tolist(), strict=True):
                rewards[i] = reward
            self.progress.advance(len(numbers))
        self.progress.finish()
        self.num_truncated += sum(texts.truncated)
        return texts.completion_scores(rewards)

    def _batches(self, texts: TokenRows) -> Iterator[tuple[list[int], Tensor]]:
        """Numbers of some rows and their rewards; together all rows."""
        rows, places = texts.rows, texts.places
        if self.padding_reason:
            for batch in token_budget_batches([len(row) for row in rows], self.batch_tokens):
                yield batch, padded_rewards(self.model, [rows[i] for i in batch], pad_id(self.tokenizer))
            return
        groups = [[rows[i] for i in group] for group in places]
        with tree_attention(self.model):
            for batch in tree_batches(groups, self.batch_tokens):
                rewards_R = tree_rewards(self.model, [groups[i] for i in batch], self.preamble)
                yield [i for group in batch for i in places[group]], rewards_R
