"""Verifiers, programs that check answers against references, as Scorers."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from core.functions import Verifier
from core.records import Dialogue


class VerifierScorer:
    """Scores each completion with a function of its text and its prompt's reference, called once per completion.

    `references` must cover every prompt to be scored; error messages call the function `name`.

    >>> VerifierScorer(lambda text, reference: float(text == reference["answer"]), {}, name="exact").name
    'exact'
    """

    def __init__(self, verifier: Verifier, references: Mapping[Dialogue, Mapping[str, Any]], *, name: str = "the verifier") -> None:
        self.verifier, self.references, self.name = verifier, references, name

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of scores per prompt.

        Raises a `ValueError` that names the prompt if it has no reference, if a score is not a finite number, and if the function
        raises one.
        """
        return [
            [self._scored(prompt, text, self._reference(prompt)) for text in answers]
            for prompt, answers in zip(prompts, completions, strict=True)
        ]

    def _reference(self, prompt: Dialogue) -> Mapping[str, Any]:
        if prompt not in self.references:
            raise ValueError(
                f"{self.name} has no reference for {_shown(prompt)}; add a row with this prompt and its reference to the prompts."
            )
        return self.references[prompt]

    def _scored(self, prompt: Dialogue, text: str, reference: Mapping[str, Any]) -> float:
        try:
            score = self.verifier(text, reference)
        except ValueError as error:  # the function knows the reference, not the prompt
            raise ValueError(f"{self.name}, judging an answer to {_shown(prompt)}: {error}") from error
        if not isinstance(score, Real) or not math.isfinite(score):
            raise ValueError(f"{self.name} returned {score!r:.80} for {_shown(prompt)}, which is not a finite number; fix the function.")
        return float(score)


def _shown(prompt: Dialogue) -> str:
    """The prompt as error messages show it: the start of its last turn."""
    return f"the prompt {prompt[-1].content!r:.80}"
