"""How long a text may be: the positions that a model has learned, and the context that it was trained for."""

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from core.config import ModelConfig
from core.models.adapters import find_adapter
from core.models.locate import locate

_POSITIONS = {"wpe", "position_embeddings", "position_embedding", "embed_positions", "positions_embed", "pos_embed"}
"""What modules and buffers with a row for every position are called; rotary and relative positions have none."""
_SCALED = {"linear", "dynamic", "yarn"}
"""Rotary embeddings whose configurations may give the context before it was extended by a factor."""


def num_positions(model: PreTrainedModel) -> int | None:
    """The number of tokens that learned positions, or tables of rotary ones, allow in a text; None if there is no such limit.

    OPT and RoBERTa count from an offset: the first rows of their tables belong to no position.
    """
    limits: list[int] = []
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _POSITIONS and isinstance(module, nn.Embedding):
            before = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - max(before, int(vars(module).get("offset", 0))))
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] in _POSITIONS:
            limits.append(len(buffer))
    return min(limits, default=None)


def context_of(model: PreTrainedModel) -> int | None:
    """The number of tokens that a model with rotary positions was made for; beyond it, it runs, but nobody knows how well."""
    config = model.config.get_text_config().to_dict()
    context = config.get("max_position_embeddings")
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(context, int) or num_positions(model) is not None or not rope:
        return None
    if rope.get("rope_type", rope.get("type")) in _SCALED and isinstance(rope.get("factor"), (int, float)):
        context = max(context, int((rope.get("original_max_position_embeddings") or context) * rope["factor"]))
    return context


def within_positions(model: PreTrainedModel, max_length: int) -> tuple[int, str]:
    """`max_length`, or the model's number of positions if that is less, with a line that says so; the line is empty otherwise."""
    limit = num_positions(model)
    if limit is None or limit >= max_length:
        return max_length, ""
    name = type(model).__name__
    return limit, f"max_length={max_length} is more than the {limit} positions that {name} has learned, so {limit} tokens are the limit"


def limit_of(config: ModelConfig, max_length: int) -> int:
    """The limit that `within_positions` finds of a reward model made from this one, without its weights."""
    source = locate(config)
    adapter = find_adapter(source)
    base = source if adapter is None else adapter.base
    own = AutoConfig.from_pretrained(base.path, revision=base.revision, trust_remote_code=False)
    with torch.device("meta"):
        return within_positions(AutoModelForSequenceClassification.from_config(own), max_length)[0]


def beyond_context(model: PreTrainedModel, longest: int) -> str:
    """A warning if a text of `longest` tokens exceeds the context of a rotary model; else empty."""
    context = context_of(model)
    if context is None or longest <= context:
        return ""
    name = type(model).__name__
    return f"warning: the longest text has {longest} tokens, more than the {context} that {name} was made for (max_position_embeddings)"


def require_room(model: PreTrainedModel, longest_prompt: int, max_new_tokens: int) -> None:
    """Raises `ValueError` if prompt and new tokens together exceed the positions that the model has learned."""
    limit = num_positions(model)
    if limit is not None and longest_prompt + max_new_tokens > limit:
        raise ValueError(
            f"{type(model).__name__} has learned {limit} positions, and the longest prompt has {longest_prompt} tokens, to which "
            f"max_new_tokens={max_new_tokens} are added; lower max_new_tokens, or leave out prompts of more than "
            f"{max(0, limit - max_new_tokens)} tokens."
        )
