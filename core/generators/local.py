"""Sampling with transformers: every prompt is prefilled once, whatever the number of completions.

Shapes: B prompts, R rows (completions) in a batch, L tokens of prompt and completion, T completion tokens, V vocabulary,
E tokens that end an answer.
"""

from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from core.data.chat import encode_prompts, pad_id
from core.data.padding import pad_left
from core.data.turn_ends import answer_texts, turn_ends
from core.generators.drawing import sample_tokens
from core.generators.grouped import grouped_heads
from core.generators.half import product_format, to_sample_from
from core.generators.room import MEMORY, rows_that_fit
from core.models.fit import require_embedded
from core.models.positions import require_room
from core.records import Completion, Dialogue, Sampling

KEEP_ROWS = 0.75
"""Finished rows are dropped from the batch once less than this share of rows is unfinished."""

LOOK = 8
"""On a GPU, whether rows have ended is looked at every so many tokens: looking waits for the device."""

GROWTH = 64
"""Tokens by which a full cache grows, so that it is copied only once per this many tokens."""


class TransformersGenerator:
    """Generates with a causal language model in this process.

    A prompt's completions depend on the seed, the prompt and its index in the list, not on the batches. A batch has at most
    `batch_size` completions, and no more than whose keys and values fit into the fraction `memory` of the free memory. Under
    autocast it samples from a copy made for the call (`core.generators.half`). `probe` stands in for a model that cannot run yet
    (`core.models.mapped.first_layers`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 512,
        memory: float = MEMORY,
        probe: PreTrainedModel | None = None,
    ) -> None:
        self.model, self.tokenizer, self.batch_size, self.memory = model, tokenizer, batch_size, memory
        self.ends = turn_ends(model, tokenizer)
        require_generates(probe or model, tokenizer)

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions per prompt, in the order of the prompts.

        Raises `ValueError` as `prompt_tokens`.
        """
        results: list[list[Completion]] = [[] for _ in prompts]
        for batch, answers in self.generate_batches(prompts, sampling, [sampling.first + i for i in range(len(prompts))]):
            for i, row in zip(batch, answers, strict=True):
                results[i] = row
        return results

    def generate_batches(
        self, prompts: Sequence[Dialogue], sampling: Sampling, indices: Sequence[int]
    ) -> Iterator[tuple[list[int], list[list[Completion]]]]:
        """As `generate`, a batch at a time, longest prompts first: the places of its prompts in the list, and their completions.

        The random numbers of a prompt follow from its index in `indices`.
        """
        prompt_ids = prompt_tokens(self.model, self.tokenizer, prompts, sampling)
        longest = max(map(len, prompt_ids), default=0)
        model = to_sample_from(self.model)
        fit = rows_that_fit(model, longest + sampling.max_new_tokens, memory=self.memory)
        per_batch = max(1, min(self.batch_size, fit or self.batch_size) // sampling.n)
        order = sorted(range(len(prompts)), key=lambda i: -len(prompt_ids[i]))
        for start in range(0, len(order), per_batch):
            batch = order[start : start + per_batch]
            ids, places = [prompt_ids[i] for i in batch], [indices[i] for i in batch]
            rows, logprobs = sample(model, ids, places, sampling, pad=pad_id(self.tokenizer), ends=self.ends)
            own = [slice(place * sampling.n, (place + 1) * sampling.n) for place in range(len(batch))]
            yield batch, [completions(self.tokenizer, rows[part], logprobs[part], self.ends) for part in own]


def prompt_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Dialogue], sampling: Sampling
) -> list[list[int]]:
    """Token ids of each prompt.

    Raises `ValueError` if prompt and new tokens would exceed the positions that the model has learned, and for tokens that it has no
    embeddings for.
    """
    prompt_ids = encode_prompts(tokenizer, prompts)
    require_room(model, max(map(len, prompt_ids), default=0), sampling.max_new_tokens)
    require_embedded(model, tokenizer, prompt_ids)
    return prompt_ids


def completions(
    tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], logprobs: list[list[float]], ends: frozenset[int]
) -> list[Completion]:
    """Sampled token ids, with their log-probabilities, as completions."""
    return [
        Completion(text=text, token_ids=tuple(row), finished=row[-1] in ends, logprobs=tuple(own))
        for text, row, own in zip(answer_texts(tokenizer, rows, ends), rows, logprobs, strict=True)
    ]


@torch.no_grad()
def sample(
    model: PreTrainedModel, prompt_ids: Sequence[list[int]], indices: Sequence[int], sampling: Sampling, *, pad: int, ends: frozenset[int]
) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids of `sampling.n` completions of each prompt, including the one of `ends` that ended it, and their log-probabilities.

    `indices` are the prompts' indices, from which their random numbers are seeded.
    """
    with grouped_heads(model):
        return _sample(model, prompt_ids, indices, sampling, pad=pad, ends=ends)


def _sample(
    model: PreTrainedModel, prompt_ids: Sequence[list[int]], indices: Sequence[int], sampling: Sampling, *, pad: int, ends: frozenset[int]
) -> tuple[list[list[int]], list[list[float]]]:
    ids_BL, mask_BL = (t.to(model.device) for t in pad_left(prompt_ids, pad))
    ends_E = torch.tensor(sorted(ends), device=model.device)
    cache = growing_cache(model.config)
    logits = _forward(model, ids_BL, mask_BL, (mask_BL.cumsum(-1) - 1).clamp(min=0), cache)
    _take_rows(cache, torch.arange(len(ids_BL), device=model.device).repeat_interleave(sampling.n))
    logits_RV = logits.repeat_interleave(sampling.n, 0)
    num_rows, width = len(logits_RV), ids_BL.shape[1]
    mask_RL = mask_BL.new_ones(num_rows, width + sampling.max_new_tokens)
    mask_RL[:, :width] = mask_BL.repeat_interleave(sampling.n, 0)
    next_positions_R = mask_RL[:, :width].sum(-1)
    uniforms_RT = torch.cat([uniforms(sampling, index) for index in indices]).to(model.device)

    # Samples stay on the device until the end: a transfer at every step would make it wait for the host.
    tokens_RT = torch.zeros_like(uniforms_RT, dtype=torch.long)
    logprobs_RT = torch.zeros_like(uniforms_RT)
    lengths_R = torch.zeros_like(next_positions_R)
    alive = torch.arange(num_rows, device=model.device)  # rows that are still in the batch
    active = torch.ones(num_rows, dtype=torch.bool, device=model.device)
    for step in range(sampling.max_new_tokens):
        next_R, logprobs_R = sample_tokens(logits_RV, sampling.temperature, uniforms_RT[alive, step])
        tokens_RT[alive, step], logprobs_RT[alive, step] = next_R, logprobs_R
        lengths_R[alive] += active
        active = active & (next_R[:, None] != ends_E).all(-1)
        if step + 1 == sampling.max_new_tokens:
            break
        looks = not active.is_cuda or step % LOOK == LOOK - 1
        num_active = int(active.sum()) if looks else len(alive)
        if num_active == 0:
            break
        if num_active < KEEP_ROWS * len(alive):
            keep = active.nonzero().squeeze(-1)
            _take_rows(cache, keep)
            alive, next_R, mask_RL, active = alive[keep], next_R[keep], mask_RL[keep], active[keep]
        positions = (next_positions_R[alive] + step)[:, None]
        logits_RV = _forward(model, next_R[:, None], mask_RL[:, : width + step + 1], positions, cache)
    return _rows(tokens_RT, lengths_R), _rows(logprobs_RT, lengths_R)


@torch.no_grad()
def require_generates(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `ValueError` for an architecture that batches and a cache give other tokens than one row read whole.

    Such are models that keep their state elsewhere than in the cache, or let padding into it. Two short rows of different
    lengths, each continued twice, tell.
    """
    size = model.config.get_text_config().vocab_size
    prompts = [[id % size for id in range(3, 3 + length)] for length in (9, 4)]
    sampling = Sampling(n=2, max_new_tokens=4)
    why = "gives other probabilities with a cache and padding than without"
    pad = min(pad_id(tokenizer), len(model.get_input_embeddings().get_parameter("weight")) - 1)  # a probe has only the first tokens
    try:
        gaps = _gaps(model, prompts, sampling, pad)
        # A row's median: in 16 bits a router may send single tokens to other experts.
        if max(gap_T.median().item() for gap_T in gaps) <= (0.01 if product_format(model) == torch.float32 else 0.3):
            return
        error = None
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as problem:
        error, why = problem, " ".join(f"stops with {type(problem).__name__}: {problem}".split())[:200]
    raise ValueError(
        f"{type(model).__name__} (model_type={model.config.model_type}) cannot be sampled here: it {why}. Give a policy of another "
        "architecture, such as a Llama."
    ) from error


def _gaps(model: PreTrainedModel, prompts: Sequence[list[int]], sampling: Sampling, pad: int) -> list[Tensor]:
    """How far the log-probabilities of sampled completions are from those of each row read whole; shape (T,) for every row."""
    # In the format of the weights: under autocast a model in fp32 would differ by the rounding of bf16.
    dtype = product_format(model)
    with torch.autocast(model.device.type, dtype if dtype != model.dtype else None, enabled=dtype != model.dtype):
        rows, logprobs = sample(model, prompts, range(len(prompts)), sampling, pad=pad, ends=frozenset())
        gaps: list[Tensor] = []
        for place, (row, found) in enumerate(zip(rows, logprobs, strict=True)):
            whole = torch.tensor([[*prompts[place // sampling.n], *row]], device=model.device)
            logits_TV = model(input_ids=whole, use_cache=False).logits[0, -len(row) - 1 : -1]
            expected_T = torch.log_softmax(logits_TV.float(), -1).gather(-1, whole[0, -len(row) :, None]).squeeze(-1)
            gaps.append((expected_T.cpu() - torch.tensor(found)).abs())
    return gaps


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer in memory with spare room, so that a new token is written without copying the others.

    `DynamicLayer` makes a new tensor of all tokens for every token. Here `keys` and `values`, of shape (R, heads, L, channels),
    are the filled part of larger tensors, which grow by `GROWTH` tokens once they are full.
    """

    def __init__(self) -> None:
        super().__init__()
        self._room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Writes the states of the next tokens behind the others; returns all of them."""
        # Under autocast, rotary embeddings leave keys in fp32, and attention would cast all of them again for every token.
        key_states = key_states.to(value_states.dtype)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if start == 0:  # the prompt: it is repeated first, and room made afterwards
            return super().update(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        if self._room is None or end > self._room[0].shape[-2]:
            self._room = _with_room(self.keys, end), _with_room(self.values, end)
        keys, values = self._room
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """The rows `indices`, in this order; a row may be named several times."""
        super().batch_select_indices(indices)
        self._room = None


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """The cache that transformers makes for such a model, its layers of full attention without their copies."""
    cache = DynamicCache(config=config)
    # Of windows, linear attention and the like the state is small, or is no list of tokens: those stay as they are.
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _take_rows(cache: DynamicCache, indices: Tensor) -> None:
    """Reduces or repeats the rows of the cache to `indices`."""
    layers: list[Any] = cache.layers  # typed as a base that lacks these methods
    for layer in layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            layer.reorder_cache(cast("torch.LongTensor", indices))  # its only way to choose rows
        else:
            layer.batch_select_indices(indices)


def _with_room(states: Tensor, end: int) -> Tensor:
    rows, heads, length, channels = states.shape
    room = states.new_empty(rows, heads, end + GROWTH, channels)
    room[..., :length, :] = states
    return room


def _rows(values_RT: Tensor, lengths_R: Tensor) -> list[list[Any]]:
    return [row[:length] for row, length in zip(values_RT.tolist(), lengths_R.tolist(), strict=True)]


def uniforms(sampling: Sampling, index: int) -> Tensor:
    """The random numbers of a prompt's completions, by token; a function of the seed and the prompt's index."""
    generator = torch.Generator().manual_seed(sampling.seed * 1_000_003 + index)
    return torch.rand(sampling.n, sampling.max_new_tokens, generator=generator)


def _forward(model: PreTrainedModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    name = "cache_params" if "cache_params" in signature(model.forward).parameters else "past_key_values"  # Mamba's own word
    states: dict[str, Any] = {name: cache}
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1, **states)
    return output.logits[:, -1]
