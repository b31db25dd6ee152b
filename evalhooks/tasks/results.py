"""What the tasks of a policy come to: a metric each, their average, and what was skipped."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from bon.estimators import mean
from bon.selection import average, estimate
from core.data.thinking import answer_of
from core.records import Completion
from evalhooks.halves import halves
from evalhooks.tasks.length_control import length_controlled
from evalhooks.tasks.task import Judged, Task, together

_MAX_REASONS = 3
"""Reasons for skipping answers that a message gives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What a process measured of its share of a task's prompts; the scores are empty without a reward."""

    answers: list[list[Completion]]
    judged: Judged
    scores: list[list[float]]
    num_truncated: int


def in_turn(shares: Sequence[Answered]) -> Answered:
    """The shares one after another."""
    return Answered(
        answers=[row for share in shares for row in share.answers],
        judged=together([share.judged for share in shares]),
        scores=[row for share in shares for row in share.scores],
        num_truncated=sum(share.num_truncated for share in shares),
    )


def downstream(
    drawn: Mapping[str, Judged], chosen: Mapping[str, float], tasks: Collection[str], say: Callable[[str, str], None]
) -> dict[str, float]:
    """`downstream/<task>` and their average; of a task with answers that were skipped also `skipped/<task>`, the share of them.

    `drawn` are the tasks whose answers were judged, `chosen` the metrics of those of multiple choice, `tasks` the names of all. `say` gets
    a line and what it is about. The average of either half of the prompts is left out where a task has no halves (`evalhooks.halves`).
    `downstream_se/<task>` is the standard error of the choice of prompts (`bon.selection`), which multiple choice and one prompt alone do
    not have, and `downstream_se/average` that of the average where all of its tasks have one.
    """
    values = {name: value for name, found in drawn.items() if (value := found.mean) is not None} | dict(chosen)
    metrics = {f"downstream/{name}": value for name, value in values.items()}
    if values:
        metrics["downstream/average"] = mean(list(values.values()))
        metrics |= halves(drawn) if len(drawn) == len(tasks) else {}
        metrics |= _errors(drawn, values)
    for name, found in drawn.items():
        if found.num_skipped:
            metrics[f"skipped/{name}"] = found.num_skipped / sum(map(len, found.correct))
            reasons = "; ".join(f"{reason} ({count})" for reason, count in list(found.reasons.items())[:_MAX_REASONS])
            say(f"{name}: {found.num_skipped} answers were skipped, and none of them counts as wrong: {reasons}", name)
    metrics |= {f"skipped/{name}": 1.0 for name in tasks if name not in drawn and name not in chosen}
    if values and len(values) < len(tasks):
        left_out = ", ".join(name for name in tasks if name not in values)
        say(f"downstream/average is over {len(values)} of {len(tasks)} tasks, without {left_out}, which was skipped", "average")
    return metrics


def _errors(drawn: Mapping[str, Judged], averaged: Collection[str]) -> dict[str, float]:
    """The standard errors of the tasks and, where each task that is `averaged` has one, of their average."""
    found = {name: estimate(own.of_prompts) for name, own in drawn.items() if name in averaged}
    errors = {name: one.error for name, one in found.items()}
    if len(found) == len(averaged):
        errors["average"] = average(list(found.values())).error
    return {f"downstream_se/{name}": error for name, error in errors.items() if error is not None}


def at_equal_lengths(tasks: Mapping[str, Task], found: Mapping[str, Answered]) -> dict[str, float]:
    """`length_controlled/<task>` of tasks that compare answers with a baseline's: the win rate were they as long as that."""
    metrics: dict[str, float] = {}
    for name, task in tasks.items():
        if not task.baseline or name not in found:
            continue
        own = found[name]
        judged = [
            (verdict, len(answer_of(answer.text)), len(str(prompt.reference[task.baseline])))
            for prompt, answers, verdicts in zip(task.prompts, own.answers, own.judged.correct, strict=True)
            for answer, verdict in zip(answers, verdicts, strict=True)
            if verdict is not None
        ]
        wins, lengths, baseline = zip(*judged, strict=True) if judged else ((), (), ())
        if (rate := length_controlled(wins, lengths, baseline)) is not None:
            metrics[f"length_controlled/{name}"] = rate
    return metrics
