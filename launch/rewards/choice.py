"""Which of several reward models is taken, by what is known of them before they are used."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from core.runs.identity import INPUTS
from evalhooks.measured_rows import different_rows
from evalhooks.rewardbench.domains import OVERALL, PREFIX, score_key, scores_of
from launch.history.find import Record


class By(StrEnum):
    """What reward models are chosen by: a score at their last checkpoint, or a draw."""

    rewardbench2 = "rewardbench2"
    """RewardBench 2 overall, or where none has it the mean of the domains that most have."""
    rewardbench1 = "rewardbench1"
    held_out = "held_out"
    """Accuracy on preference pairs held out of training."""
    random = "random"


class Pick(StrEnum):
    """Which of the reward models is taken."""

    best = "best"
    worst = "worst"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Criterion:
    """What a choice is called, which metric it reads, and what a reward model must be trained with to have it."""

    label: str
    metric: str = ""
    remedy: str = ""


_CRITERIA: Mapping[By, _Criterion] = {
    By.rewardbench2: _Criterion(label="RewardBench 2", remedy="hooks.rewardbench2=FILE"),
    By.rewardbench1: _Criterion(label="RewardBench 1", metric="rewardbench1/overall", remedy="hooks.rewardbench1=FILE"),
    By.held_out: _Criterion(label="held-out accuracy", metric="held_out/accuracy", remedy="data.held_out=0.1 or data.validation=FILE"),
    By.random: _Criterion(label="chance"),
}


def label_of(by: By) -> str:
    """What a choice goes by, in a sentence.

    >>> label_of(By.held_out)
    'held-out accuracy'
    """
    return _CRITERIA[by].label


def remedy_of(by: By) -> str:
    """The setting with which a reward model is trained to have the score."""
    return _CRITERIA[by].remedy


def choose(
    records: Sequence[Record], by: By = By.rewardbench2, *, pick: Pick = Pick.best, seed: int = 0, say: Callable[[str], None] = print
) -> Record:
    """The record with the best or worst score; by chance the one that `seed` draws, whatever the order of the records.

    A reward model without the score, or with one that is not finite, is neither, and `say` tells of it, of scores that do not compare, as
    they were measured on different rows, and of several that share the score: the first of them is taken. Raises `ValueError` if none
    has a score.
    """
    if by == By.random and records:
        return _drawn(records, seed)
    found = scores(records, by)
    scored = [(score, record) for score, record in zip(found, records, strict=True) if score is not None]
    if not scored:
        names, criterion = ", ".join(str(record["dir"]) for record in records), _CRITERIA[by]
        raise ValueError(
            f"no reward model to choose: none of {names} has a finite score on {criterion.label}; train with {criterion.remedy}."
        )
    if missing := [str(record["dir"]) for score, record in zip(found, records, strict=True) if score is None]:
        say(f"not chosen from, without a finite score on {_CRITERIA[by].label}: {', '.join(missing)}")
    if said := different_rows({str(record["dir"]): record for _, record in scored}, _CRITERIA[by].metric or f"{PREFIX}{OVERALL}"):
        say(f"warning: {said}")
    best = (max if pick == Pick.best else min)(score for score, _ in scored)
    first, *others = [record for score, record in scored if score == best]
    if others:
        label, named = _CRITERIA[by].label, ", ".join(str(record["dir"]) for record in others)
        say(f"the {pick} score on {label} is shared, so the order decides: {first['dir']} is taken, and {named} would do as well")
    return first


def _drawn(records: Sequence[Record], seed: int) -> Record:
    """The record that `seed` draws: the first by a hash of the seed and of what each is, so that it stays the same where another one is
    missing. Ids would not do, which differ by machine: there, what was trained before has other weights in its last digits."""
    found = sorted(((_what(record), str(record["id"]), record) for record in records), key=lambda one: one[:2])
    twins: Counter[str] = Counter()
    tickets: list[tuple[bytes, Record]] = []
    for what, _, record in found:
        tickets.append((hashlib.sha256(f"{seed} {twins[what]} {what}".encode()).digest(), record))
        twins[what] += 1  # of the same settings, on other files
    return min(tickets, key=lambda ticket: ticket[0])[1]


def _what(record: Record) -> str:
    """What a reward model is on any machine: its settings, and the names of its model and its data, without the contents of files."""
    settings = {key: value for key, value in record.get("identity", {}).items() if key != INPUTS}
    lineage = record.get("lineage", {})
    names = [str(lineage.get(key) or "").rpartition("/")[2] for key in ("model", "base", "data")]
    return json.dumps([settings, names], sort_keys=True)


def scores(records: Sequence[Mapping[str, Any]], by: By) -> list[float | None]:
    """The scores by which records are compared, in their order; None for one that has none, and for all by chance."""
    if by == By.rewardbench2:
        found = [scores_of(record.get("final", {})) for record in records]
        key = score_key(found)
        return [own.get(key) for own in found]
    return [_finite(record.get("final", {}).get(_CRITERIA[by].metric)) for record in records]


def _finite(value: object) -> float | None:
    """A number of a record, which holds those that are not finite as text."""
    number = math.nan if value is None else float(str(value))
    return number if math.isfinite(number) else None
