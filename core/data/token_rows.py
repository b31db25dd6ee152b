"""What scorers read: one token row (a sequence of token ids) per completion, including its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from core.data.chat import encode_answered
from core.records import CompletionScore, Dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRows:
    """One token row per completion, prompt by prompt; `truncated` ones were cut at the end to the length limit.

    `bounds` holds the index of each prompt's first row, and at the end the number of rows.
    """

    rows: tuple[list[int], ...]
    truncated: tuple[bool, ...]
    bounds: tuple[int, ...]

    @property
    def places(self) -> list[range]:
        """The row indices of each prompt that has any."""
        return [range(start, end) for start, end in pairwise(self.bounds) if end > start]

    def completion_scores(self, rewards: Sequence[float]) -> list[list[CompletionScore]]:
        """The rewards of the rows, grouped by prompt, with the number of tokens behind each."""
        found = [
            CompletionScore(reward=reward, num_tokens=len(row), truncated=cut)
            for reward, row, cut in zip(rewards, self.rows, self.truncated, strict=True)
        ]
        return [found[start:end] for start, end in pairwise(self.bounds)]


def token_rows(
    tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]], max_length: int
) -> TokenRows:
    """Renders every prompt with each of its completions by the chat template, as rows of at most `max_length` tokens."""
    dialogues = [prompt for prompt, answers in zip(prompts, completions, strict=True) for _ in answers]
    whole = encode_answered(tokenizer, dialogues, [answer for answers in completions for answer in answers])
    bounds = [0]
    for answers in completions:
        bounds.append(bounds[-1] + len(answers))
    return TokenRows(
        rows=tuple(row[:max_length] for row in whole), truncated=tuple(len(row) > max_length for row in whole), bounds=tuple(bounds)
    )
