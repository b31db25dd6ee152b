"""Reward models as Scorers."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.attention import encode, tree_attention, why_not
from core.batching import pad_right, token_budget_batches
from core.chat import pad_id, preamble
from core.progress import NoProgress, Progress
from core.records import Dialogue, Measured
from core.texts import TokenRows, token_rows
from core.trees import Row, batches, grow


class RewardModelScorer:
    """Scores with a sequence classifier of one output, on text rendered by the classifier's own template.

    The completions of a prompt go through the model as one prompt tree (`core.trees`), where the architecture allows it;
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
        self.why_padded = why_not_rewards(model, max_length)
        self.progress = progress or NoProgress()
        if self.why_padded:
            say(f"scoring with padding: {self.why_padded}")

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of rewards per prompt, one reward per completion, in the order given."""
        return [[measured.reward for measured in row] for row in self.measure(prompts, completions)]

    @torch.no_grad()
    def measure(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[Measured]]:
        """As `score`, with the number of tokens that each reward was read from."""
        texts = token_rows(self.tokenizer, prompts, completions, self.max_length)
        rewards = [0.0] * len(texts.rows)
        self.progress.start("scoring", len(rewards))
        for numbers, rewards_R in self._batches(texts):
            for i, reward in zip(numbers, rewards_R.tolist(), strict=True):
                rewards[i] = reward
            self.progress.advance(len(numbers))
        self.progress.finish()
        self.num_truncated += sum(texts.truncated)
        return texts.measured(rewards)

    def _batches(self, texts: TokenRows) -> Iterator[tuple[list[int], Tensor]]:
        """Numbers of some rows and their rewards; together all rows."""
        rows, places = texts.rows, texts.places
        if self.why_padded:
            for batch in token_budget_batches([len(row) for row in rows], self.batch_tokens):
                yield batch, padded_rewards(self.model, [rows[i] for i in batch], pad_id(self.tokenizer))
            return
        groups = [[rows[i] for i in group] for group in places]
        with tree_attention(self.model):
            for batch in batches(groups, self.batch_tokens):
                rewards_R = tree_rewards(self.model, [groups[i] for i in batch], self.preamble)
                yield [i for group in batch for i in places[group]], rewards_R


def tree_rewards(model: PreTrainedModel, groups: Sequence[Sequence[Row]], preamble: Sequence[int] = ()) -> Tensor:
    """Rewards in fp32 of all rows of all groups, one after another, read at their last tokens; shape (R,).

    `model` must be in `tree_attention`. Gradients flow where they are enabled: into a prompt from all its completions.
    """
    stream = grow(groups, preamble)
    hidden_RH = encode(model, stream)[stream.last_places().to(model.device)].float()
    head = head_of(model)
    # A matrix product of a few rows rounds by their number; a product and a sum do not.
    rewards_R = (hidden_RH * head.weight.float()).sum(-1)
    return rewards_R if head.bias is None else rewards_R + head.bias.float()


def padded_rewards(model: PreTrainedModel, rows: Sequence[Row], pad_id: int) -> Tensor:
    """Rewards in fp32 of the rows by the model's own forward pass, padded at the end under an attention mask; shape (R,)."""
    ids_BL, mask_BL = (tensor.to(model.device) for tensor in pad_right(rows, pad_id))
    return model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).logits[:, 0].float()


def why_not_rewards(model: PreTrainedModel, max_length: int) -> str:
    """Why the classifier's rewards cannot be read from prompt trees; empty if they can."""
    if _find_head(model) is None:
        return f"the head of {type(model).__name__} is not a linear layer named score"
    return why_not(model, max_length)


def head_of(model: PreTrainedModel) -> nn.Linear:
    """The linear layer that turns a classifier's hidden states into rewards; where peft keeps a trained copy of it, that copy.

    Raises `ValueError` for a model without one.
    """
    head = _find_head(model)
    if head is None:
        raise ValueError(f"{type(model).__name__} has no linear head 'score'; give a decoder such as a Llama.")
    return head


class RewardHead(nn.Linear):
    """A head that computes in fp32, under autocast and on hidden states in another number format too, as `tree_rewards` does.

    Near 3, neighbouring numbers of bf16 lie 1/64 apart: too coarse for the difference of two rewards.
    """

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return linear(input.float(), self.weight.float(), None if self.bias is None else self.bias.float())


def _find_head(model: PreTrainedModel) -> nn.Linear | None:
    head = dict(model.named_children()).get("score")
    # peft's wrapper of a module that is trained whole: the original beside a trained copy under the adapter's name.
    copies = dict(head.named_children()).get("modules_to_save") if head is not None else None
    if copies is not None:
        head = next(iter(copies.children()), None)
    return head if isinstance(head, nn.Linear) else None
