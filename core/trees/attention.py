"""Attention over prompt trees, as an attention function for transformers.

`encode` runs a model's layers over a `core.trees.layout.Stream`. On CPUs every block of the stream is one call of scaled
dot-product attention over its context and itself: a dense mask over the whole stream would make the kernel do the masked
work too. On CUDA devices one call does the whole stream: that of our own kernels (`core.trees.tiled`) or, for heads of sizes that
they do not know, of one for sequences of different lengths (`core.trees.varlen`); in fp32 the calls by block run there too.

Shapes: N tokens in a flat stream, H query heads (in hidden states: hidden size), J key heads, D channels of a head, Q queries
and K keys of one block, S queries of all heads that share a key head, R sequences.
"""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from core.trees.layout import Block, Sequences, Stream, TokenIds, pack_trees
from core.trees.tiled import attend_on_tiles, fits_tiles
from core.trees.tiles import Tiles, lay_tiles
from core.trees.trial import first_line
from core.trees.varlen import attend_by_sequence, fits_kernel

NAME = "prompt_tree"
_PLAIN_LAYERS = {"full_attention", "attention"}


def tree_stream(model: PreTrainedModel, groups: Sequence[Sequence[TokenIds]], preamble: Sequence[int] = ()) -> Stream:
    """The groups' trees, laid out as suits the model's device; still on the CPU. See `core.trees.layout.pack_trees`."""
    return pack_trees(groups, preamble, whole=model.device.type == "cuda")


def encode(model: PreTrainedModel, stream: Stream) -> Tensor:
    """Last hidden states (N, H) of the stream's tokens, with gradients where they are enabled.

    `model` must be in `tree_attention`. Raises `ValueError` for a layer whose attention is not plain causal attention.
    """
    stream = stream.to(model.device)
    return model.base_model(
        input_ids=stream.ids_N[None], position_ids=stream.positions_N[None], use_cache=False, prompt_tree=Plan(stream)
    ).last_hidden_state[0]


def tree_attention(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Context in which the model attends over prompt trees."""
    return attending_by(model, NAME)


@contextmanager
def attending_by(model: PreTrainedModel, name: str) -> Generator[None]:
    """Context in which the model uses the attention function that is registered under `name`."""
    before = model.config._attn_implementation or "eager"  # pyright: ignore[reportPrivateUsage]
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class Plan:
    """What all layers need to know about a stream, computed once."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._masks: dict[tuple[torch.dtype, int], list[Tensor | None]] = {}

    @cached_property
    def blocks(self) -> list[Block]:
        return self.stream.blocks()

    @cached_property
    def sequences(self) -> Sequences:
        return self.stream.sequences()

    @cached_property
    def tiles(self) -> Tiles:
        stream = self.stream
        return lay_tiles(stream.lengths, stream.ancestors, stream.trees, stream.numbers.device)

    def masks(self, dtype: torch.dtype, num_groups: int) -> list[Tensor | None]:
        """The blocks' additive masks, (G * Q, K), for the G query heads that share a key head, one after another."""
        key = (dtype, num_groups)
        if key not in self._masks:
            self._masks[key] = [None if b.mask_QK is None else _additive_mask(b.mask_QK, dtype).repeat(num_groups, 1) for b in self.blocks]
        return self._masks[key]


def _additive_mask(mask_QK: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask_QK.shape, dtype=dtype, device=mask_QK.device).masked_fill_(~mask_QK, float("-inf"))


def attend_on_tree(
    module: nn.Module,
    query_1HND: Tensor,
    key_1JND: Tensor,
    value_1JND: Tensor,
    attention_mask: Tensor | None,
    *,
    prompt_tree: Plan,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention over the plan's stream, with the signature that transformers calls; returns (1, N, H, D)."""
    unsupported = [name for name in ("s_aux", "softcap") if options.get(name) is not None]
    if sliding_window is not None and sliding_window < prompt_tree.stream.longest:
        unsupported.append("sliding_window")
    if unsupported or dropout:
        raise ValueError(f"attention over prompt trees is plain and causal; this layer has {', '.join(unsupported) or 'dropout'}.")
    # Under autocast, rotary embeddings leave queries and keys in fp32 and values in bf16.
    query_1HND, key_1JND = query_1HND.to(value_1JND.dtype), key_1JND.to(value_1JND.dtype)
    if fits_tiles(query_1HND, key_1JND, value_1JND):
        ends_N = prompt_tree.stream.subtree_end_N
        return attend_on_tiles(query_1HND, key_1JND, value_1JND, prompt_tree.tiles, ends_N, scaling), None
    if fits_kernel(query_1HND, key_1JND, value_1JND):
        return attend_by_sequence(query_1HND, key_1JND, value_1JND, prompt_tree.sequences, scaling), None
    out_1HND = _attend_by_block(query_1HND, key_1JND, value_1JND, prompt_tree, scaling)
    return out_1HND.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend_on_tree)


def _attend_by_block(query_1HND: Tensor, key_1JND: Tensor, value_1JND: Tensor, plan: Plan, scaling: float | None) -> Tensor:
    """One call per block. `split` and `cat` instead of slices: the gradient of a slice fills a tensor as long as the stream."""
    blocks, lengths = plan.blocks, plan.stream.lengths
    num_groups = query_1HND.shape[1] // key_1JND.shape[1]
    queries = query_1HND.split([block.end - block.start for block in blocks], dim=2)
    keys, values = key_1JND.split(lengths, dim=2), value_1JND.split(lengths, dim=2)
    parts: list[Tensor] = []
    for block, mask_SK, query_1HQD in zip(blocks, plan.masks(query_1HND.dtype, num_groups), queries, strict=True):
        seen = (*block.context, *block.segments)
        key_1JKD, value_1JKD = _concatenate(keys, seen), _concatenate(values, seen)
        if mask_SK is None:
            parts.append(
                scaled_dot_product_attention(query_1HQD, key_1JKD, value_1JKD, is_causal=True, scale=scaling, enable_gqa=num_groups > 1)
            )
        else:
            # The query heads that share a key head are folded into one: faster, and no copies of the keys.
            folded_1JSD = query_1HQD.reshape(1, key_1JND.shape[1], -1, query_1HQD.shape[-1])
            out_1JSD = scaled_dot_product_attention(folded_1JSD, key_1JKD, value_1JKD, attn_mask=mask_SK, scale=scaling)
            parts.append(out_1JSD.reshape(*query_1HQD.shape[:-1], value_1JKD.shape[-1]))
    return torch.cat(parts, dim=2)


def _concatenate(parts: Sequence[Tensor], chosen: Sequence[int]) -> Tensor:
    """The chosen segments, concatenated; a single one is not copied."""
    return torch.cat([parts[s] for s in chosen], dim=2) if len(chosen) > 1 else parts[chosen[0]]


def obstacle(model: PreTrainedModel, max_length: int) -> str | None:
    """Why the model cannot run on prompt trees, in words for a user; None if it can.

    Known obstacles are read from its configuration; then two short sequences are run with and without a tree, to catch an
    architecture that looks plain but is not, which would give different scores.
    """
    if declared := declared_obstacle(model, max_length):
        return declared
    name = type(model).__name__
    try:
        error = _largest_error(model)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, RuntimeError) as problem:  # torch raises the last where a kernel fails
        return f"{name} refuses prompt trees ({first_line(problem)})"
    return None if error <= (1e-3 if model.dtype == torch.float32 else 0.1) else f"{name} gives other values on prompt trees"


def declared_obstacle(model: PreTrainedModel, max_length: int) -> str | None:
    """Why the model's configuration says that it cannot run on prompt trees of rows of `max_length` tokens; None if it does not."""
    name = type(model).__name__
    config = model.config.get_text_config()
    kinds = set(config.to_dict().get("layer_types") or ["full_attention"])
    window = config.to_dict().get("sliding_window")
    if not model._supports_attention_backend:  # pyright: ignore[reportPrivateUsage]
        return f"{name} does not take attention functions"
    if kinds - _PLAIN_LAYERS:
        return f"{name} has layers of {', '.join(sorted(kinds - _PLAIN_LAYERS))}"
    if window is not None and config.to_dict().get("use_sliding_window", True) and window < max_length:
        return f"{name} attends to the last {window} tokens only"
    return None


@torch.no_grad()
def _largest_error(model: PreTrainedModel) -> float:
    """Largest difference between the last hidden states of two sequences with a shared prefix, relative to the largest value."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(min(model.config.get_text_config().vocab_size, 1000), (40,), generator=draw).tolist()
    rows = [ids[:32], ids[:24] + ids[32:]]
    stream = tree_stream(model, [rows])
    # In the format of the weights: the bf16 autocast of a trainer's hooks would hide differences.
    with torch.autocast(model.device.type, enabled=False):
        with tree_attention(model):
            ours_RH = encode(model, stream)[stream.last_token_indices().to(model.device)]
        plain_RH = torch.stack(
            [model.base_model(input_ids=torch.tensor([row], device=model.device), use_cache=False).last_hidden_state[0, -1] for row in rows]
        )
    return float((ours_RH - plain_RH).abs().max() / plain_RH.abs().max())
