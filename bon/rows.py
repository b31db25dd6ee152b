"""What a pool holds: prompts, each with many completions, and what is known of these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.records import Dialogue


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolRow:
    """One prompt with its completions, and of each what is known: all of these tuples are as long as `completions`, or empty.

    `correct` is the task verifier's result (0 to 1); it is empty too where the verifier skipped one of the completions. `finished` says
    whether a completion ended before the token limit, and `models` what wrote it.

    >>> PoolRow(id="7", prompt=(), completions=("A plum.", "A lamp."), correct=(1.0, 0.0)).models
    ()
    """

    id: str
    prompt: Dialogue
    completions: tuple[str, ...]
    correct: tuple[float, ...] = ()
    finished: tuple[bool, ...] = ()
    models: tuple[str, ...] = ()


Pools = Mapping[str, Sequence[PoolRow]]
"""Rows by task."""
