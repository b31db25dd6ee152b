"""Batches of similar lengths within a token budget, and padding.

Shape suffixes: B sequences, L tokens of the longest.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.trees.layout import TokenIds


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped so that the padded size of each group stays within `budget` tokens, longest sequences first.

    The longest come first so that a run that does not fit in memory fails at once. A single sequence above the budget is
    a batch of its own.
    """
    batches: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or width * (len(batches[-1]) + 1) > budget:
            batches.append([])
            width = lengths[index]
        batches[-1].append(index)
    return batches


def pad_right(rows: Sequence[TokenIds], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of shape (B, L), padded at the end."""
    width = max(map(len, rows))
    ids_BL = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    mask_BL = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids_BL, mask_BL


def pad_left(rows: Sequence[TokenIds], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of shape (B, L), padded at the start."""
    width = max(map(len, rows))
    ids_BL = torch.tensor([[*[pad_id] * (width - len(row)), *row] for row in rows])
    mask_BL = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids_BL, mask_BL
