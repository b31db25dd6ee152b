"""Which samples hooks keep of a checkpoint: the rows that a reward model gets most wrong, and a policy's answers to fixed prompts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from core.records import BenchmarkRow, Completion, Preference, Prompt, ScoredRow
from core.runs.samples import text_of, turns

NUM_WRONG = 8
"""Rows of a reward model that are kept of each kind."""
NUM_PROMPTS, NUM_ANSWERS = 3, 4
"""Prompts of a policy that are kept of each task, and answers to each."""

Sample = dict[str, Any]


def worst_rows(rows: Sequence[BenchmarkRow], scored: Sequence[ScoredRow]) -> list[Sample]:
    """The rows of a benchmark with the lowest margins, the lowest first: best correct completion minus best wrong one."""
    margins = [_margin(row.scores[: row.num_correct], row.scores[row.num_correct :]) for row in scored]
    return [
        {
            "id": rows[place].id,
            "subset": rows[place].subset,
            "prompt": turns(rows[place].dialogue),
            "margin": margins[place],
            "completions": [
                {"text": text, "score": score, "correct": number < rows[place].num_correct}
                for number, (text, score) in enumerate(zip(rows[place].completions, scored[place].scores, strict=True))
            ],
        }
        for place in _lowest(margins)
    ]


def worst_pairs(pairs: Sequence[Preference], scores: Sequence[tuple[float, float]]) -> list[Sample]:
    """The pairs with the lowest margins, chosen minus rejected, the lowest first."""
    margins = [chosen - rejected for chosen, rejected in scores]
    return [
        {
            "source": pairs[place].source,
            "where": pairs[place].where,
            "prompt": turns(pairs[place].prompt),
            "margin": margins[place],
            "completions": [
                {"text": text_of(pairs[place].chosen), "score": scores[place][0], "correct": True},
                {"text": text_of(pairs[place].rejected), "score": scores[place][1], "correct": False},
            ],
        }
        for place in _lowest(margins)
    ]


def answered(
    task: str,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Completion]],
    *,
    scores: Sequence[Sequence[float]] = (),
    correct: Sequence[Sequence[float | None]] = (),
) -> list[Sample]:
    """The first answers to the first prompts, with their scores and whether a verifier takes them for correct, as far as known."""
    return [
        {
            "task": task,
            "id": prompt.id,
            "prompt": turns(prompt.dialogue),
            "completions": [
                {
                    "text": answer.text,
                    "tokens": len(answer.token_ids),
                    "finished": answer.finished,
                    **_at("score", scores, place, number),
                    **_at("correct", correct, place, number),
                }
                for number, answer in enumerate(answers[place][:NUM_ANSWERS])
            ],
        }
        for place, prompt in enumerate(prompts[:NUM_PROMPTS])
    ]


def _at(name: str, values: Sequence[Sequence[float | None]], place: int, number: int) -> Mapping[str, float]:
    value = values[place][number] if values else None
    return {} if value is None else {name: value}


def _margin(right: Sequence[float], wrong: Sequence[float]) -> float:
    return max(right) - max(wrong) if right and wrong else math.nan


def _lowest(margins: Sequence[float]) -> list[int]:
    """The places of the lowest margins; those that are not numbers come first, as nothing is more wrong."""
    order = sorted(range(len(margins)), key=lambda place: (not math.isnan(margins[place]), margins[place]))
    return order[:NUM_WRONG]
