"""The rows that reward models get wrong: their texts from the samples of runs, their scores at every checkpoint from the saved results."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.hooks.hook import measured_steps
from core.runs.checkpoints import step_folder
from core.runs.samples import read_samples
from evalhooks.report.dashboard.payload import cut
from evalhooks.rewardbench.v2 import canonical

MAX_TEXT, MAX_PROMPT = 1500, 2500
"""Characters of a completion and of a turn of a prompt that the page shows; `samples/` in the run's folder has all."""
MAX_CHARACTERS = 5_000_000
"""Characters of all rows together; the rows that most reward models get wrong come first."""
MAX_CHECKPOINTS = 800
"""Checkpoints whose files are read, over all runs; with more, each run's are thinned, and the newest stays."""

KINDS = {"rewardbench2": "RewardBench 2", "rewardbench1": "RewardBench 1", "held_out": "held-out pairs"}

Key = tuple[str, str, str]
"""Kind, subset or source, and id of a row; of a pair its prompt and answers stand for the id."""


@dataclass(kw_only=True, slots=True)
class _Row:
    sample: Mapping[str, Any]
    scores: dict[int, dict[int, list[float]]] = field(default_factory=dict)
    """By place of the reward model and by step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Misjudged:
    """Rows as the page's scripts read them, and how many more there were than have room.

    >>> misjudged([]).rows
    []
    """

    rows: list[dict[str, Any]]
    num_left_out: int


def misjudged(dirs: Sequence[str]) -> Misjudged:
    """The worst rows of reward models, whose runs have these folders; none that all of them get right at every checkpoint.

    A row's `seen` lists for each reward model that had it among its worst at some checkpoint: the model's place in `dirs`, steps,
    margins and scores. Folders that are not there are passed over: a summary may outlive its runs.
    """
    there = [(place, Path(name)) for place, name in enumerate(dirs) if name and Path(name).is_dir()]
    each = max(1, MAX_CHECKPOINTS // max(1, len(there)))
    found: dict[Key, _Row] = {}
    for place, folder in there:
        _gather(found, place, folder, each)
    # A checkpoint's eight worst hold right ones where it has fewer wrong ones.
    ordered = sorted((row for row in found.values() if _is_wrong(row)), key=lambda row: (-_num_wrong(row), _lowest(row)))
    shown: list[dict[str, Any]] = []
    room = MAX_CHARACTERS
    for row in ordered:
        plain = _plain(row)
        room -= sum(len(turn["content"]) for turn in plain["prompt"]) + sum(len(answer["text"]) for answer in plain["completions"])
        if room < 0:
            break
        shown.append(plain)
    return Misjudged(rows=shown, num_left_out=len(ordered) - len(shown))


def _gather(found: dict[Key, _Row], place: int, folder: Path, each: int) -> None:
    """Adds the samples of one run, and where its results were saved, the scores of the same rows at its other checkpoints."""
    steps = _thinned(measured_steps(folder), each)
    own: dict[Key, _Row] = {}
    for step in steps:
        for sample in read_samples(folder, step):
            if sample.get("kind") in KINDS:
                row = own.setdefault(_key(sample), found.setdefault(_key(sample), _Row(sample=sample)))
                row.scores.setdefault(place, {})[step] = [_number(answer.get("score")) for answer in sample.get("completions", [])]
    for kind in dict.fromkeys(kind for kind, _, _ in own if kind != "held_out"):
        wanted = {(subset, name): row for (of, subset, name), row in own.items() if of == kind}
        for step in steps:
            for key, scores in _saved(step_folder(folder, step).name, kind, folder, [name for _, name in wanted]).items():
                if (row := wanted.get(key)) is not None and len(scores) == len(row.sample.get("completions", [])):
                    row.scores.setdefault(place, {}).setdefault(step, scores)


def _saved(step: str, kind: str, folder: Path, names: Sequence[str]) -> dict[tuple[str, str], list[float]]:
    """The scores of rows with these ids, by subset and id; none where the results of a step are missing or cannot be read."""
    file = folder / "evals" / f"{step}.{kind}.parquet"
    try:
        table = pq.read_table(file, columns=["id", "subset", "scores"], filters=[("id", "in", list(names))])
    except (OSError, pa.ArrowException):  # a run may be writing it, or be an old one
        return {}
    return {(row["subset"], row["id"]): row["scores"] for row in table.to_pylist()}


def _thinned(steps: Sequence[int], most: int) -> list[int]:
    """At most `most` of the steps, evenly spaced, the last one among them."""
    if len(steps) <= most:
        return list(steps)
    return sorted({steps[len(steps) - 1 - round(number * len(steps) / most)] for number in range(most)})


def _key(sample: Mapping[str, Any]) -> Key:
    if sample["kind"] == "held_out":
        texts = tuple(str(answer.get("text")) for answer in sample.get("completions", []))
        return "held_out", str(sample.get("source", "")), repr((sample.get("prompt"), texts))
    return str(sample["kind"]), str(sample.get("subset", "")), str(sample.get("id", ""))


def _plain(row: _Row) -> dict[str, Any]:
    sample, answers = row.sample, row.sample.get("completions", [])
    prompt = [turn for turn in sample.get("prompt") or [] if isinstance(turn, Mapping)]
    domain = canonical(str(sample.get("subset", ""))) if sample["kind"] == "rewardbench2" else sample.get("subset") or sample.get("source")
    return {
        "kind": KINDS[sample["kind"]],
        "domain": str(domain or ""),
        "id": str(sample.get("id") or sample.get("where") or ""),
        "prompt": [
            {"role": str(turn.get("role", "")), "content": text}
            for turn, text in zip(prompt, cut((str(turn.get("content") or "") for turn in prompt), MAX_PROMPT), strict=True)
        ],
        "completions": [
            {"text": text, "correct": bool(answer.get("correct"))}
            for answer, text in zip(answers, cut((str(answer.get("text", "")) for answer in answers), MAX_TEXT), strict=True)
        ],
        "seen": [
            {
                "model": place,
                "steps": sorted(scores),
                "margins": [_shown(_margin(row, scores[step])) for step in sorted(scores)],
                "scores": [[_shown(score) for score in scores[step]] for step in sorted(scores)],
            }
            for place, scores in row.scores.items()
        ],
    }


def _margin(row: _Row, scores: Sequence[float]) -> float:
    """The best correct completion minus the best wrong one; NaN where a score is."""
    judged = list(zip(scores, row.sample.get("completions", []), strict=True))
    right = [score for score, answer in judged if answer.get("correct")]
    wrong = [score for score, answer in judged if not answer.get("correct")]
    if not right or not wrong or any(map(math.isnan, scores)):
        return math.nan
    return max(right) - max(wrong)


def _num_wrong(row: _Row) -> int:
    """How many reward models have it wrong at their newest checkpoint; a tie is wrong, and so is a score that is no number."""
    return sum(not _margin(row, scores[max(scores)]) > 0 for scores in row.scores.values())


def _is_wrong(row: _Row) -> bool:
    """Whether a reward model has it wrong at some checkpoint."""
    return any(not _margin(row, scores) > 0 for by_step in row.scores.values() for scores in by_step.values())


def _lowest(row: _Row) -> float:
    margins = [_margin(row, scores[max(scores)]) for scores in row.scores.values()]
    return min(-math.inf if math.isnan(margin) else margin for margin in margins)


def _shown(value: float) -> float | str:
    """A score with five digits; one that is not finite as text, which JSON has no number for."""
    return float(f"{value:.5g}") if math.isfinite(value) else str(value)


def _number(value: Any) -> float:
    """A score of a sample, where those that are not finite are text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
