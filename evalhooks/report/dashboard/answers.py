"""What policies answered at their best checkpoints, cut so that the answers of many runs fit in the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from evalhooks.report.dashboard.payload import cut
from evalhooks.report.facts import PpoRun

MAX_TEXT = 700
"""Characters of an answer, and of a prompt, that the page shows; the file has all."""
MAX_CHARACTERS = 2_000_000
"""Of all answers together; each run has its share of them."""


def answers(runs: Sequence[PpoRun]) -> list[list[dict[str, Any]]]:
    """The answers of each run, as the page's scripts read them."""
    share = MAX_CHARACTERS // max(1, len(runs))
    return [_of_run(run.details.get("samples") or [], share) for run in runs]


def _of_run(samples: Sequence[Mapping[str, Any]], room: int) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    for sample in samples:
        completions = sample.get("completions") or []
        prompt, *texts = cut([_question(sample), *(str(answer.get("text", "")) for answer in completions)], MAX_TEXT)
        room -= len(prompt) + sum(map(len, texts))
        if room < 0:
            break
        judged = [
            {"text": text, "score": answer.get("score"), "judged": _judged(answer)} for answer, text in zip(completions, texts, strict=True)
        ]
        shown.append({"task": str(sample.get("task") or ""), "step": sample.get("step"), "prompt": prompt, "completions": judged})
    return shown


def _question(sample: Mapping[str, Any]) -> str:
    prompt = sample.get("prompt")
    return str(prompt[-1].get("content", "")) if isinstance(prompt, list) and prompt else str(prompt or "")


def _judged(answer: Mapping[str, Any]) -> str:
    correct = answer.get("correct")
    return "" if correct is None else "right" if correct else "wrong"
