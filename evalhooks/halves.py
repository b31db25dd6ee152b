"""Downstream results on either half of the prompts: the best of many checkpoints is chosen on one and told on the other."""

from collections.abc import Mapping, Sequence

from bon.estimators import mean
from evalhooks.tasks.task import Judged

CHOSEN_ON, REPORTED_ON = "halves/even", "halves/odd"


def halves(tasks: Mapping[str, Judged]) -> dict[str, float]:
    """The averages over tasks on the even and on the odd prompts, counted from 0; nothing unless each task has a result on both.

    >>> halves({"sums": Judged(correct=[[1.0], [0.0], [0.0]], reasons={})})
    {'halves/even': 0.5, 'halves/odd': 0.0}
    """
    even, odd = ([_mean(judged.correct[start::2]) for judged in tasks.values()] for start in (0, 1))
    known = [value for value in (*even, *odd) if value is not None]
    if not tasks or len(known) < 2 * len(tasks):
        return {}
    return {CHOSEN_ON: mean(known[: len(tasks)]), REPORTED_ON: mean(known[len(tasks) :])}


def _mean(rows: Sequence[list[float | None]]) -> float | None:
    return Judged(correct=list(rows), reasons={}).mean
