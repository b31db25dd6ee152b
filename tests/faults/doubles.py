"""Functions that the commands under test are given by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.records import Dialogue


def even(completion: str, reference: Mapping[str, Any]) -> float:
    """A verifier: 1 for an even number of characters."""
    return float(len(completion) % 2 == 0)


def length(prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    """A reward: the number of characters."""
    return [[float(len(text)) for text in row] for row in completions]
