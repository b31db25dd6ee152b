"""Rewards by a Python function of the user's: rules, programs, models of another library."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from core.functions import load_function
from core.records import Dialogue


class FunctionScorer:
    """Scores with the function behind `module:function`.

    The function is called as `function(prompts, completions)`, with prompts as lists of `{"role": ..., "content": ...}` and
    a list of texts per prompt, and returns a list of numbers per prompt, one per text. It is called once per call of
    `score`. The module may lie in the current folder.

    Raises `ValueError` where the function cannot be loaded.
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._function = load_function(spec, "the reward function")

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of scores per prompt; raises `ValueError` where the function returns another shape or what is no finite number."""
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

    def _sequence(self, value: Any, length: int, where: str, wanted: str) -> Sequence[Any]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(f"{self.spec} returned {type(value).__name__}{where}; it must return a list of {length} {wanted}.")
        if len(value) != length:
            raise ValueError(f"{self.spec} returned {len(value)} entries{where}; it must return {length} {wanted}.")
        return value

    def _number(self, value: Any, index: int) -> float:
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"{self.spec} returned {value!r:.80} for prompt {index}, which is no finite number; mend the function.")
        return float(value)
