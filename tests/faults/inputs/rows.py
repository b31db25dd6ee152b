"""Every field of every kind of row, with values that it cannot have."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.inputs.trial import Expected, Trial
from tests.faults.jobs import PPO, RM, TASK, world_of
from tests.faults.stage import Stage

R, A, C = Expected.refused, Expected.accepted, Expected.clean

MISSING = object()

VALUES: Mapping[str, Any] = {
    "missing": MISSING,
    "null": None,
    "true": True,
    "5": 5,
    "NaN": float("nan"),
    "1e999": float("inf"),
    "huge integer": 10**400,
    "empty text": "",
    "blank": " \n",
    "text": "some text",
    "lone surrogate": "a\ud800b",
    "NUL": "a\x00b",
    "escape sequences": "\x1b[31mred\x1b]0;title\x07",
    "a megabyte": "word " * 200_000,
    "[]": [],
    "[null]": [None],
    "[[]]": [[]],
    "{}": {},
    "nested": json.loads("[" * 200 + "]" * 200),
}
"""What stands in a field instead of its value."""

KINDS: Mapping[str, Mapping[str, Expected]] = {
    "text": {"empty text": C, "blank": C, "text": A, "NUL": C, "escape sequences": A, "a megabyte": C},
    "dialogue": {"empty text": C, "blank": C, "text": A, "NUL": C, "escape sequences": A, "a megabyte": C},
    "texts": {"[]": C},
    "id": {"5": A, "text": A, "empty text": C, "blank": C, "NUL": C, "escape sequences": A, "a megabyte": C, "huge integer": C},
    "label": {"text": C, "blank": C, "NUL": C, "escape sequences": C, "a megabyte": C},
    "count": {"missing": A, "null": A},
    "number": {"5": C, "missing": C, "null": C, "NaN": C, "1e999": C, "huge integer": C},
    "scores": {},
    "source": dict.fromkeys(VALUES, C),
    "margin": {"missing": A, "null": A, "5": A},
    "messages": {},
    "role": {},
    "score": {"5": A, "NaN": C, "1e999": C, "null": C, "missing": C},
}
"""By the kind of a field, what comes of each value; refused if it is not named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A kind of file: a whole row of it, its fields with their kinds, and the command that reads it.

    `place` is how a message names a row; `optional` fields may be missing or null; `expected` are exceptions by field and value.

    >>> Format(name="pairs", row={}, fields={}, command=lambda stage, file: []).place
    'row 3'
    """

    name: str
    row: Mapping[str, Any]
    fields: Mapping[str, str]
    command: Callable[[Stage, str], Sequence[str]]
    place: str = "row 3"
    optional: frozenset[str] = frozenset()
    expected: Mapping[tuple[str, str], Expected] = field(default_factory=dict)
    number: int = 6

    def rows(self) -> list[dict[str, Any]]:
        """Whole rows, each its own by a number."""
        return [json.loads(json.dumps(dict(self.row)).replace("@", str(index))) for index in range(self.number)]


def _benchmark(stage: Stage, file: str) -> list[str]:
    return ["bench", "runs_dir=runs", f"rows={file}", f"reward.path={stage.reward_model}"]


def _pairs(stage: Stage, file: str) -> list[str]:
    return ["rm", *world_of(stage), *RM, "data=custom", f"data.paths=[{file}]"]


FORMATS = (
    Format(
        name="preferences",
        row={"prompt": "Name a fruit, @.", "chosen": "A plum, @.", "rejected": "A lamp.", "margin": 1.0, "source": "mine"},
        fields={"prompt": "dialogue", "chosen": "text", "rejected": "text", "margin": "margin", "source": "source"},
        command=_pairs,
        expected={("chosen", "empty text"): R, ("rejected", "empty text"): R, ("prompt", "empty text"): R},
    ),
    Format(
        name="preference messages",
        row={
            "chosen": [{"role": "user", "content": "Name a fruit, @."}, {"role": "assistant", "content": "A plum, @."}],
            "rejected": [{"role": "user", "content": "Name a fruit, @."}, {"role": "assistant", "content": "A lamp."}],
        },
        fields={
            "chosen": "messages",
            "rejected": "messages",
            "chosen.0.content": "text",
            "rejected.1.content": "text",
            "chosen.1.role": "role",
        },
        command=_pairs,
        expected={("chosen.0.content", name): R for name in VALUES},
    ),
    Format(
        name="prompts",
        row={"id": "p@", "prompt": "Name a fruit, @."},
        fields={"prompt": "dialogue"},
        command=lambda stage, file: ["ppo", *world_of(stage), *PPO, f"reward.path={stage.reward_model}", f"prompts=[{file}]"],
    ),
    Format(
        name="task",
        row={"id": "t@", "question": "Name a fruit, @.", "reference": {"answer": "plum"}},
        fields={"question": "dialogue", "id": "source", "reference": "source"},
        command=lambda stage, file: [
            *("ppo", *world_of(stage), *PPO, *TASK, f"reward.path={stage.reward_model}"),
            *("tasks.gsm8k.prompt_key=question", f"tasks.gsm8k.path={file}"),
        ],
    ),
    Format(
        name="rewardbench2",
        row={
            "id": "b@",
            "prompt": "Name a fruit, @.",
            "chosen": ["A plum."],
            "rejected": ["A lamp.", "No.", "Why?"],
            "subset": "Math",
            "num_correct": 1,
        },
        fields={"id": "id", "prompt": "text", "chosen": "texts", "rejected": "texts", "subset": "label", "num_correct": "count"},
        command=_benchmark,
        expected={("chosen", "[]"): R, ("rejected", "[]"): R},
    ),
    Format(
        name="rewardbench1",
        row={"id": "b@", "prompt": "Name a fruit, @.", "chosen": "A plum.", "rejected": "A lamp.", "subset": "mt-bench-easy"},
        fields={"id": "id", "prompt": "text", "chosen": "text", "rejected": "text", "subset": "label"},
        command=lambda stage, file: [*_benchmark(stage, file), "benchmark=rewardbench1"],
        optional=frozenset({"id"}),
    ),
    Format(
        name="hooks rewardbench2",
        row={"id": "b@", "prompt": "Name a fruit, @.", "chosen": ["A plum."], "rejected": ["A lamp."], "subset": "Math"},
        fields={"chosen": "texts", "rejected": "texts", "prompt": "text"},
        command=lambda stage, file: ["rm", *world_of(stage), *RM, f"hooks.rewardbench2={file}"],
        expected={("chosen", "[]"): R, ("rejected", "[]"): R},
    ),
    Format(
        name="scores2",
        row={"id": "s@", "subset": "Math", "num_correct": 1, "scores": [2.0, 1.0, 0.5, 0.1], "total_completions": 4},
        fields={
            "id": "id",
            "subset": "label",
            "num_correct": "count",
            "scores": "scores",
            "total_completions": "count",
            "scores.1": "score",
        },
        command=lambda stage, file: ["bench", f"from_scores={file}"],
        expected={("num_correct", "missing"): R, ("num_correct", "null"): R},
    ),
    Format(
        name="scores1",
        row={"subset": "mt-bench-easy", "chosen": 1.5, "rejected": 0.5},
        fields={"subset": "label", "chosen": "score", "rejected": "score"},
        command=lambda stage, file: ["bench", "benchmark=rewardbench1", f"from_scores={file}"],
        expected={("chosen", "missing"): R, ("rejected", "missing"): R},
    ),
)


def row_trials(stage: Stage) -> list[Trial]:
    """Every format without a fault, and with every value in every field of its third row."""
    trials: list[Trial] = []
    for known in FORMATS:
        trials.append(_trial(stage, known, "whole", known.rows(), A, ()))
        for name, kind in known.fields.items():
            for shown, value in VALUES.items():
                rows = known.rows()
                _put(rows[2], name.split("."), value)
                expected = known.expected.get((name, shown), KINDS[kind].get(shown, R))
                if expected is R and name in known.optional and shown in ("missing", "null"):
                    expected = A
                trials.append(_trial(stage, known, f"{name} is {shown}", rows, expected, (known.place,)))
    return trials


def _put(row: Any, path: Sequence[str], value: Any) -> None:
    keys: list[Any] = [int(part) if part.isdigit() else part for part in path]
    *parents, last = keys
    for parent in parents:
        row = row[parent]
    if value is MISSING:
        del row[last]
    else:
        row[last] = value


def _trial(stage: Stage, known: Format, what: str, rows: Sequence[Any], expected: Expected, words: tuple[str, ...]) -> Trial:
    def arguments(folder: Path) -> Sequence[str]:
        file = folder / "given.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return known.command(stage, "given.jsonl")

    return Trial(name=f"rows {known.name}/{what}", arguments=arguments, expected=expected, words=("given.jsonl", *words))
