"""How many rows a device has memory for: keys and values of all their tokens stay while they are sampled."""

import torch
from transformers import PreTrainedModel

from core.process.memory import free_bytes

MEMORY = 0.5
"""The share of the device's free memory that keys and values may take; more rows are sampled in several batches."""


def rows_that_fit(model: PreTrainedModel, length: int, *, memory: float = MEMORY) -> int | None:
    """How many rows of `length` tokens fit into the fraction `memory` of the device's free memory, 1 at least.

    None if that is not known: the architecture may keep something else than keys and values, or the system may not tell.
    """
    values, free = _values_of_token(model), free_bytes(model.device)
    if values is None or free is None:
        return None
    return max(1, int(free * memory / (values * length * _format(model).itemsize)))


def _format(model: PreTrainedModel) -> torch.dtype:
    """The format of keys and values: that of products."""
    kind = model.device.type
    autocasts = torch.is_autocast_enabled(kind) and model.dtype == torch.float32
    return torch.get_autocast_dtype(kind) if autocasts else model.dtype


def _values_of_token(model: PreTrainedModel) -> int | None:
    """The numbers that all layers keep of a token; None for an architecture without attention heads."""
    config = model.config.get_text_config()
    try:
        num_layers, num_heads = config.num_hidden_layers, config.num_attention_heads
        width = config.hidden_size
    except AttributeError:
        return None
    known = config.to_dict()
    heads, channels = known.get("num_key_value_heads") or num_heads, known.get("head_dim") or width // num_heads
    return 2 * num_layers * heads * channels
