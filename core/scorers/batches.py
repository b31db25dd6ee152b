"""How a scorer sends many sequences through a model: packed as prompt trees, or padded."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from core.data.padding import token_budget_batches
from core.data.token_rows import TokenRows
from core.process.world import World
from core.transfer import to_host
from core.trees.attention import tree_attention
from core.trees.layout import TokenIds, tree_batches

T = TypeVar("T")


def read_batches(
    model: PreTrainedModel,
    texts: TokenRows,
    batch_tokens: int,
    *,
    padded: bool,
    read_padded: Callable[[list[int]], Tensor],
    read_packed: Callable[[list[int], Sequence[Sequence[TokenIds]]], Tensor],
    world: World | None = None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Indices of the sequences of one batch and one value for each, shape (R,) on the CPU; the batches together cover all sequences.

    With `world` they are this process's share of the batches, which are those of one process; all processes have as many.

    A batch holds about `batch_tokens` tokens. With `padded`, `read_padded` gets its indices; otherwise `read_packed` gets its
    indices and its sequences grouped by prompt, while the model is in `tree_attention`. A GPU is given a batch before the values
    of the one before are waited for, so that it always has work.
    """
    launched = _launched(model, texts, batch_tokens, padded=padded, read_padded=read_padded, read_packed=read_packed, world=world)
    waiting: list[tuple[list[int], Callable[[], Tensor]]] = []
    for indices, values_R in launched:
        waiting.append((indices, to_host(values_R)))
        if len(waiting) > 1 or not values_R.is_cuda:
            first, fetch = waiting.pop(0)
            yield first, fetch()
    for indices, fetch in waiting:
        yield indices, fetch()


def _launched(
    model: PreTrainedModel,
    texts: TokenRows,
    batch_tokens: int,
    *,
    padded: bool,
    read_padded: Callable[[list[int]], Tensor],
    read_packed: Callable[[list[int], Sequence[Sequence[TokenIds]]], Tensor],
    world: World | None = None,
) -> Iterator[tuple[list[int], Tensor]]:
    if padded:
        for batch in own_batches(token_budget_batches([len(row) for row in texts.rows], batch_tokens), world):
            yield batch, read_padded(batch)
        return
    places = texts.places
    # As arrays once, for both the division into batches and their layout.
    groups = [[np.asarray(texts.rows[i], dtype=np.int32) for i in group] for group in places]
    with tree_attention(model):
        for batch in own_batches(tree_batches(groups, batch_tokens), world):
            indices = [i for group in batch for i in places[group]]
            yield indices, read_packed(indices, [groups[i] for i in batch])


def own_batches(batches: Sequence[T], world: World | None) -> list[T]:
    """The batches that this process reads, dealt out in turn. If others have one more, it reads the last again: all make each pass."""
    if world is None:
        return list(batches)
    own = batches[world.rank :: world.size]
    num_passes = -(-len(batches) // world.size)
    return [*own, *list(batches[-1:]) * (num_passes - len(own))]
