"""Rewards from a user's Python function: rules, programs, models of other libraries."""

import math
from collections.abc import Sequence
from numbers import Real

from core.functions import load_function
from core.records import Dialogue


class FunctionScorer:
    """Scores with the function named by `module:function`.

    Each call of `score` calls `function(prompts, completions)` once. Prompts are lists of `{"role": ..., "content": ...}`,
    completions a list of texts per prompt; the function returns a list of numbers per prompt, one per text. The module may
    lie in the current folder.

    Raises `ValueError` if the function cannot be loaded.
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._function = load_function(spec, "the reward function")

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of scores per prompt; raises `ValueError` if the function returns another shape or a non-finite value."""
        messages = [[{"role": turn.role, "content": turn.content} for turn in prompt] for prompt in prompts]
        result = self._function(messages, [list(answers) for answers in completions])
        rows = self._sequence(result, len(prompts), "", "lists, one per prompt")
        return [
            [
                self._number(value, index)
                for value in self._sequence(row, len(answers), f" for prompt {index}", "numbers, one per completion")
            ]
            for index, (row, answers) in enumerate(zip(rows, completions, strict=True))
        ]

    def _sequence(self, value: object, length: int, where: str, wanted: str) -> Sequence[object]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(f"{self.spec} returned {type(value).__name__}{where}; it must return a list of {length} {wanted}.")
        if len(value) != length:
            raise ValueError(f"{self.spec} returned {len(value)} entries{where}; it must return {length} {wanted}.")
        return value

    def _number(self, value: object, index: int) -> float:
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"{self.spec} returned {value!r:.80} for prompt {index}, which is not a finite number; fix the function.")
        return float(value)
