"""How many rows a device has memory for: keys and values of all their tokens stay while they are sampled."""

from collections.abc import Iterator, Sequence

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


def portions(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Neighbours that have at most `most` tokens together; one that has more is on its own.

    >>> list(portions([5, 3, 4, 20, 1], 8))
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    start = total = 0
    for end, length in enumerate(lengths):
        if end > start and total + length > most:
            yield slice(start, end)
            start, total = end, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))


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
