"""A policy trained by direct preference optimisation (DPO), used as the reward model it implies.

Shapes: B batch, L padded length, T completion tokens, N tokens in a flat stream, R sequences, H hidden, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.data.chat import encode_prompts, pad_id, preamble
from core.data.pad_token import same_tokens
from core.data.padding import pad_right
from core.data.token_rows import TokenRows, token_rows
from core.models.logprobs import LanguageHead, LogitRule, compute_head_in_fp32, head_logprobs, logit_rule, token_logprobs
from core.models.positions import within_positions
from core.progress import NoProgress, Progress
from core.records import Answer, CompletionScore, Dialogue
from core.scorers.batches import read_batches
from core.transfer import to_device
from core.trees.attention import encode, obstacle, tree_stream
from core.trees.layout import TokenIds, common_prefix_length


class ImplicitRewardScorer:
    """Scores a completion y of a prompt x by beta * (log pi(y|x) - log pi_ref(y|x)), summed over the tokens of y in nats.

    Source: Rafailov et al. (2023), "Direct Preference Optimization", section 5; the term that depends only on the
    prompt is dropped. The tokens of y include the end of turn of the chat template. Both models read the policy's tokens, so
    they must share a vocabulary: raises `ValueError` otherwise, and unless `beta` is positive and finite.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        reference_tokenizer: PreTrainedTokenizerBase,
        *,
        beta: float = 0.1,
        batch_tokens: int = 16384,
        max_length: int = 2048,
        progress: Progress | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        if not 0 < beta < math.inf:  # also rejects NaN
            raise ValueError(f"beta is {beta}; give the temperature of the policy's training, a positive number such as 0.1.")
        if not same_tokens(tokenizer, reference_tokenizer):
            raise ValueError("the policy and its reference have different vocabularies; name the model that the policy was trained from.")
        self.policy, self.reference, self.tokenizer, self.beta = policy, reference, tokenizer, beta
        for model in (policy, reference):
            compute_head_in_fp32(model)
        self.rules = logit_rule(policy), logit_rule(reference)
        self.batch_tokens, bounded = batch_tokens, ""
        for model in (policy, reference):
            max_length, line = within_positions(model, max_length)
            bounded = line or bounded
        self.max_length = max_length
        self.num_truncated = 0
        self.preamble = preamble(tokenizer)
        self.padding_reason = logprob_obstacle(policy, max_length) or logprob_obstacle(reference, max_length)
        self.progress = progress or NoProgress()
        self._say, self._lost = say, set[str]()
        if bounded:
            say(bounded)
        if self.padding_reason:
            say(f"scoring with padding: {self.padding_reason}")

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[Answer]]) -> list[list[float]]:
        """One list of rewards per prompt, one reward per completion, in the order given."""
        return [[scored.reward for scored in row] for row in self.score_detailed(prompts, completions)]

    @torch.no_grad()
    def score_detailed(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[Answer]]) -> list[list[CompletionScore]]:
        """As `score`, with the number of tokens behind each score."""
        texts = token_rows(self.tokenizer, prompts, completions, self.max_length)
        asked = [ids for ids, answers in zip(encode_prompts(self.tokenizer, prompts), completions, strict=True) for _ in answers]
        starts = [common_prefix_length(ids, row) for ids, row in zip(asked, texts.rows, strict=True)]

        self.progress.start("scoring", 2 * len(starts))
        sums = [torch.zeros(len(starts), dtype=torch.float64) for _ in range(2)]
        for model, rule, sums_R in zip((self.policy, self.reference), self.rules, sums, strict=True):
            for batch, found in self._logprobs(model, rule, texts, starts):
                sums_R[batch] = found.double()
                self.progress.advance(len(batch))
        self.progress.finish()
        self.num_truncated += sum(texts.truncated)
        texts.say_lost(self._lost, self._say)
        return texts.completion_scores((self.beta * (sums[0] - sums[1])).tolist())

    def _logprobs(
        self, model: PreTrainedModel, rule: LogitRule | None, texts: TokenRows, starts: Sequence[int]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Indices of some rows and the log-probabilities of their completions; together they cover all rows."""

        def read_padded(indices: list[int]) -> Tensor:
            rows, begins = [texts.rows[i] for i in indices], [starts[i] for i in indices]
            return padded_logprobs(model, rule, rows, begins, pad_id(self.tokenizer))

        def read_packed(indices: list[int], groups: Sequence[Sequence[TokenIds]]) -> Tensor:
            return tree_logprobs(model, groups, [starts[i] for i in indices], self.preamble)

        padded = self.padding_reason is not None
        return read_batches(model, texts, self.batch_tokens, padded=padded, read_padded=read_padded, read_packed=read_packed)


def tree_logprobs(
    model: PreTrainedModel, groups: Sequence[Sequence[TokenIds]], starts: Sequence[int], preamble: Sequence[int] = ()
) -> Tensor:
    """Summed log-probability, in nats and fp32, of each sequence's tokens from its entry in `starts` on; shape (R,).

    `model` is a language model in `tree_attention` with a `LanguageHead`. Logits are computed only for these tokens, a chunk at a time.
    """
    stream = tree_stream(model, groups, preamble)
    hidden_NH = encode(model, stream)
    spans: list[Tensor] = []
    for row, start in enumerate(starts):
        spans.append(stream.token_indices(row)[max(start, 1) - 1 :])
    before_T = to_device(torch.cat([span[:-1] for span in spans]), model.device)
    target_T = to_device(stream.ids_N[torch.cat([span[1:] for span in spans])], model.device)
    logprobs_T, _ = head_logprobs(model, hidden_NH[before_T], target_T)
    return torch.stack([part.sum() for part in logprobs_T.split([len(span) - 1 for span in spans])])


def padded_logprobs(model: PreTrainedModel, rule: LogitRule | None, rows: Sequence[TokenIds], starts: Sequence[int], pad: int) -> Tensor:
    """The same by rows padded at the end; shape (R,). All logits are in memory at once if the `rule` of a model's logits is not known."""
    ids_BL, mask_BL = (to_device(tensor, model.device) for tensor in pad_right(rows, pad))
    begins = [max(start, 1) for start in starts]
    targets_T = torch.cat([ids_BL[b, begin : len(rows[b])] for b, begin in enumerate(begins)])
    inputs: dict[str, Any] = {"input_ids": ids_BL, "attention_mask": mask_BL, "use_cache": False}
    states = model(**inputs).logits if rule is None else model.base_model(**inputs).last_hidden_state
    before = torch.cat([states[b, begin - 1 : len(rows[b]) - 1] for b, begin in enumerate(begins)])
    logprobs_T = (token_logprobs(before, targets_T) if rule is None else head_logprobs(model, before, targets_T, rule=rule))[0]
    return torch.stack([part.sum() for part in logprobs_T.split([max(0, len(row) - b) for row, b in zip(rows, begins, strict=True)])])


@torch.no_grad()
def logprob_obstacle(model: PreTrainedModel, max_length: int) -> str | None:
    """Why the model's log-probabilities cannot be read from prompt trees; None if they can."""
    head = model.get_output_embeddings()
    if type(head) not in (nn.Linear, LanguageHead):
        return f"{type(model).__name__} has no linear output embeddings"
    assert head is not None
    ids_BL = torch.arange(8, device=model.device)[None]
    logits_V = model(input_ids=ids_BL, use_cache=False).logits[0, -1].float()
    plain_V = head(model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state[0, -1]).float()
    # Some architectures scale or cap their logits after the head; a cap hardly changes small ones.
    if (logits_V - plain_V).abs().max() > (1e-4 if model.dtype == torch.float32 else 1e-2) * logits_V.abs().max():
        return f"{type(model).__name__} changes its logits after the output embeddings"
    return obstacle(model, max_length)
