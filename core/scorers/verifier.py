"""Verifiers, programs that check answers against references: what they may return, and how they serve as Scorers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from core.data.thinking import answer_of
from core.functions import SkippedError, Verifier, finite_number, name_of, named_errors, place_of
from core.records import Dialogue, Prompt

_NUM_PROBES = 3
"""Values of a reference that a verifier is tried on as answers."""


class VerifierScorer:
    """Scores each completion with a function of its text and its prompt's reference, called once per completion.

    `references` must cover every prompt to be scored; error messages call the function `name`.

    >>> VerifierScorer(lambda text, reference: float(text == reference["answer"]), {}, name="exact").name
    'exact'
    """

    def __init__(self, verifier: Verifier, references: Mapping[Dialogue, Mapping[str, Any]], *, name: str = "the verifier") -> None:
        self.verifier, self.references, self.name = verifier, references, name
        self.num_skipped = 0
        """Answers so far that the verifier could not judge."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of scores per prompt.

        An answer that the verifier skips gets the mean of the prompt's other answers, which moves a policy neither way; without any, 0.
        Raises a `ValueError` that names the prompt if it has no reference, if a score is not a finite number, and if the function
        raises anything.
        """
        return [_filled([self._verdict(text, prompt) for text in answers]) for prompt, answers in zip(prompts, completions, strict=True)]

    def _verdict(self, text: str, prompt: Dialogue) -> float | None:
        try:
            return verdict(self.verifier, text, self._reference(prompt), prompt, name=self.name)
        except SkippedError:
            self.num_skipped += 1
            return None

    def _reference(self, prompt: Dialogue) -> Mapping[str, Any]:
        if prompt not in self.references:
            raise ValueError(
                f"{self.name} has no reference for {shown(prompt)}; add a row with this prompt and its reference to the prompts."
            )
        return self.references[prompt]


def _filled(scores: Sequence[float | None]) -> list[float]:
    known = [score for score in scores if score is not None]
    middle = sum(known) / len(known) if known else 0.0
    return [middle if score is None else score for score in scores]


def verdict(verifier: Verifier, text: str, reference: Mapping[str, Any], prompt: Dialogue, *, name: str = "") -> float:
    """The verifier's number for the answer `text` to `prompt`.

    Raises a `ValueError` that names the function (`name`, or what it is called), the line and the prompt if the function raises
    anything, and if it returns what is not a finite number.
    """
    with named_errors(verifier, name or name_of(verifier), f"judging an answer to {shown(prompt)}"):
        returned = verifier(text, reference)
    found = finite_number(returned)
    if found is None:
        raise ValueError(
            f"{name or name_of(verifier)} returned {returned!r:.80} for {shown(prompt)}, which is not a finite number; fix the function"
            f"{place_of(verifier)}."
        )
    return found


def correctness(verifier: Verifier, text: str, prompt: Prompt, *, name: str = "") -> float:
    """The verifier's number for an answer to the prompt of a task, from 0 to 1; raises as `verdict`, and for any other number.

    Of a completion that reasons first, the verifier sees the answer alone. Raises `SkippedError` where it cannot judge it.
    """
    found = verdict(verifier, answer_of(text), prompt.reference, prompt.dialogue, name=name)
    if not 0 <= found <= 1:
        raise ValueError(
            f"{name or name_of(verifier)} returned {found} for {shown(prompt.dialogue)}; a task's verifier gives correctness from 0 to "
            f"1, so scale it in the function{place_of(verifier)}."
        )
    return found


def try_verifier(verifier: Verifier, prompt: Prompt, judge: Callable[..., float] = correctness, *, name: str = "") -> None:
    """Judges an empty answer to the prompt and the first values of its reference, one of which is likely to be right.

    What a verifier cannot read, and what it must not return, is thus found before any answer is sampled. Raises as `judge`.
    """
    given = (str(value) for value in prompt.reference.values() if isinstance(value, str | int | float))
    asked = {turn.content for turn in prompt.dialogue}
    for text in ("", *islice((value for value in given if value not in asked), _NUM_PROBES)):
        with suppress(SkippedError):  # it cannot judge this one, which is counted when answers are judged
            judge(verifier, text, prompt, name=name)


def shown(prompt: Dialogue) -> str:
    """The prompt as error messages show it: the start of its last turn."""
    return f"the prompt {prompt[-1].content!r:.80}"
