"""Scorers that live in this process."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.batching import pad_right, token_budget_batches
from core.chat import encode_answered, pad_id
from core.records import Dialogue


class RewardModelScorer:
    """Scores with a sequence classifier of one output, on text rendered by the classifier's own template.

    Rows are sorted by length and padded at the end under an attention mask, so that neither the batch size nor the
    order changes a score beyond rounding. `num_truncated` counts the rows cut to `max_length` tokens.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_tokens: int = 16384, max_length: int = 2048
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.batch_tokens, self.max_length = batch_tokens, max_length
        self.num_truncated = 0

    @torch.no_grad()
    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of rewards per prompt, one reward per completion, in the order given."""
        dialogues = [prompt for prompt, answers in zip(prompts, completions, strict=True) for _ in answers]
        rows = encode_answered(self.tokenizer, dialogues, [answer for answers in completions for answer in answers])
        self.num_truncated += sum(len(row) > self.max_length for row in rows)
        rewards = self.score_ids([row[: self.max_length] for row in rows])
        ends = [0]
        for answers in completions:
            ends.append(ends[-1] + len(answers))
        return [rewards[start:end] for start, end in pairwise(ends)]

    @torch.no_grad()
    def score_ids(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """One reward per tokenised dialogue."""
        rewards = [0.0] * len(rows)
        for batch in token_budget_batches([len(row) for row in rows], self.batch_tokens):
            ids_BL, mask_BL = (t.to(self.model.device) for t in pad_right([rows[i] for i in batch], pad_id(self.tokenizer)))
            logits_B1 = self.model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).logits
            for index, reward in zip(batch, logits_B1[:, 0].float().tolist(), strict=True):
                rewards[index] = reward
        return rewards
