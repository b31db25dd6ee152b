"""Rewards from a user's Python function: rules, programs, models of other libraries."""

from collections.abc import Sequence

from core.data.dialogues import messages_of
from core.functions import finite_number, load_function, named_errors, place_of, plain
from core.records import Dialogue
from core.scorers.verifier import shown


class FunctionScorer:
    """Scores with the function named by `module:function`.

    Each call of `score` calls `function(prompts, completions)` once. Prompts are lists of `{"role": ..., "content": ...}`, with
    whatever else a turn holds, completions a list of texts per prompt; the function returns a list of numbers per prompt, one per
    text. Arrays, tensors and scalars of numpy and torch are taken. The module may lie in the current folder.

    Raises `ValueError` if the function cannot be loaded.
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._function = load_function(spec, "the reward function")

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of scores per prompt.

        Raises a `ValueError` that names the prompt if the function raises anything, and if it returns another shape or a value that is
        not a finite number.
        """
        rows = self._sequence(self._called(prompts, completions), len(prompts), "", "lists, one per prompt")
        return [
            [
                self._number(value, index, prompt)
                for value in self._sequence(row, len(answers), f" for prompt {index}", "numbers, one per completion")
            ]
            for index, (row, prompt, answers) in enumerate(zip(rows, prompts, completions, strict=True))
        ]

    def _called(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> object:
        """What the function returns. Where it raises, it is called again prompt by prompt to find the one that it fails on."""
        doing = (
            f"scoring answers to {shown(prompts[0]) if len(prompts) == 1 else f'{len(prompts)} prompts'}" if prompts else "scoring nothing"
        )
        messages = [messages_of(prompt) for prompt in prompts]
        try:
            with named_errors(self._function, self.spec, doing):
                return self._function(messages, [list(answers) for answers in completions])
        except ValueError:
            if len(prompts) > 1:
                for prompt, answers in zip(prompts, completions, strict=True):
                    self._called([prompt], [answers])
            raise

    def _sequence(self, value: object, length: int, where: str, wanted: str) -> Sequence[object]:
        value = plain(value)
        if where and finite_number(value) is not None:
            raise ValueError(
                f"{self.spec} returned {type(value).__name__}{where}; it must return a list of {length} {wanted}"
                f"{place_of(self._function)}. "
                "A flat list, one entry per answer, is what TRL's reward functions return; here the answers to a prompt stand together."
            )
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(
                f"{self.spec} returned {type(value).__name__}{where}; it must return a list of {length} {wanted}{place_of(self._function)}."
            )
        if len(value) != length:
            raise ValueError(
                f"{self.spec} returned {len(value)} entries{where}; it must return {length} {wanted}{place_of(self._function)}."
            )
        return value

    def _number(self, value: object, index: int, prompt: Dialogue) -> float:
        found = finite_number(value)
        if found is None:
            raise ValueError(
                f"{self.spec} returned {value!r:.80} for prompt {index}, which is not a finite number; fix the function"
                f"{place_of(self._function)}. It is {shown(prompt)}."
            )
        return found
