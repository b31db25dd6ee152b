"""Sampling with transformers: every prompt is prefilled once, whatever the number of completions."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from core.batching import pad_left
from core.chat import encode_prompts, pad_id
from core.records import Completion, Dialogue, Sampling

KEEP_ROWS = 0.75
"""Finished rows leave the batch once fewer than this share is still being written."""


class TransformersGenerator:
    """Generates with a causal language model in this process.

    The completions of a prompt are a function of the seed, the prompt and its place in the list, not of the batches.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 512) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions per prompt, in the order of the prompts."""
        prompt_ids = encode_prompts(self.tokenizer, prompts)
        results: list[list[Completion]] = [[] for _ in prompts]
        per_batch = max(1, self.batch_size // sampling.n)
        order = sorted(range(len(prompts)), key=lambda i: -len(prompt_ids[i]))
        for start in range(0, len(order), per_batch):
            batch = order[start : start + per_batch]
            places = [sampling.first + i for i in batch]
            rows, logprobs = sample(self.model, [prompt_ids[i] for i in batch], places, sampling, self.tokenizer)
            for place, index in enumerate(batch):
                own = slice(place * sampling.n, (place + 1) * sampling.n)
                results[index] = self._completions(rows[own], logprobs[own])
        return results

    def _completions(self, rows: list[list[int]], logprobs: list[list[float]]) -> list[Completion]:
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        eos = self.tokenizer.eos_token_id
        return [
            Completion(text=text, token_ids=tuple(row), finished=row[-1:] == [eos], logprobs=tuple(own))
            for text, row, own in zip(texts, rows, logprobs, strict=True)
        ]


@torch.no_grad()
def sample(
    model: PreTrainedModel, prompt_ids: Sequence[list[int]], indices: Sequence[int], sampling: Sampling, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids of `sampling.n` completions of each prompt, EOS included, and their log-probabilities.

    `indices` are the prompts' places, which seed their draws.
    """
    ids_BL, mask_BL = (t.to(model.device) for t in pad_left(prompt_ids, pad_id(tokenizer)))
    cache = DynamicCache(config=model.config)
    logits = _forward(model, ids_BL, mask_BL, (mask_BL.cumsum(-1) - 1).clamp(min=0), cache)
    cache.batch_repeat_interleave(sampling.n)
    logits_RV = logits.repeat_interleave(sampling.n, 0)
    mask_RL = mask_BL.repeat_interleave(sampling.n, 0)
    uniforms_RT = torch.cat([_uniforms(sampling, index) for index in indices]).to(model.device)

    tokens: list[list[int]] = [[] for _ in range(len(logits_RV))]
    logprobs: list[list[float]] = [[] for _ in range(len(logits_RV))]
    alive = torch.arange(len(logits_RV), device=model.device)  # rows of the batch that are still being written
    active = torch.ones(len(alive), dtype=torch.bool, device=model.device)
    for step in range(sampling.max_new_tokens):
        next_R, logprobs_R = draw(logits_RV, sampling.temperature, uniforms_RT[alive, step])
        drawn = zip(alive.tolist(), next_R.tolist(), logprobs_R.tolist(), active.tolist(), strict=True)
        for row, token, logprob, going in drawn:
            if going:
                tokens[row].append(token)
                logprobs[row].append(logprob)
        active = active & (next_R != tokenizer.eos_token_id)
        if not active.any() or step + 1 == sampling.max_new_tokens:
            break
        if active.float().mean() < KEEP_ROWS:
            keep = active.nonzero().squeeze(-1)
            cache.batch_select_indices(keep)
            alive, next_R, mask_RL, active = alive[keep], next_R[keep], mask_RL[keep], active[keep]
        mask_RL = torch.cat([mask_RL, mask_RL.new_ones(len(mask_RL), 1)], 1)
        logits_RV = _forward(model, next_R[:, None], mask_RL, mask_RL.sum(-1, keepdim=True) - 1, cache)
    return tokens, logprobs


def draw(logits_RV: Tensor, temperature: float, uniforms_R: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row by inverting the cumulative distribution at `uniforms_R`, and its log-probability in nats.

    At temperature 0 it is the most likely token, which is certain: its log-probability is 0.
    """
    if temperature == 0:
        return logits_RV.argmax(-1), torch.zeros(len(logits_RV), device=logits_RV.device)
    probabilities_RV = torch.softmax(logits_RV.float() / temperature, -1)
    cumulative_RV = probabilities_RV.cumsum(-1)
    # Scaled by the last entry: rounding leaves it a little off 1, and a token beyond the vocabulary must not be drawn.
    targets_R1 = (uniforms_R * cumulative_RV[:, -1])[:, None]
    tokens_R = torch.searchsorted(cumulative_RV, targets_R1, right=True).squeeze(-1).clamp(max=logits_RV.shape[-1] - 1)
    return tokens_R, probabilities_RV.gather(-1, tokens_R[:, None]).squeeze(-1).log()


def _uniforms(sampling: Sampling, index: int) -> Tensor:
    generator = torch.Generator().manual_seed(sampling.seed * 1_000_003 + index)
    return torch.rand(sampling.n, sampling.max_new_tokens, generator=generator)


def _forward(model: PreTrainedModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return output.logits[:, -1]
