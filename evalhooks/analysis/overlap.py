"""Prompts that a benchmark shares with the tasks it is to predict: the paper's main claim for RewardBench 2 is that there are none.

By the rule of Tulu 3, as in decontamination (`rmtrain.decontaminate`): more than half of a benchmark prompt's words lie in 8-grams that
a task's prompt has too; prompts of fewer than 8 words must be equal up to case and punctuation.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.data.dialogues import parse_dialogue
from core.records import Dialogue
from evalhooks.analysis.table import read_cells
from rmtrain.decontaminate import BenchmarkIndex

_COLUMNS = ("prompt", "messages", "question", "problem", "instruction", "input", "goal")
MAX_SHOWN = 3


def overlap(benchmarks: Mapping[str, Sequence[Dialogue]], tasks: Mapping[str, Sequence[Dialogue]]) -> list[dict[str, Any]]:
    """For each task and each benchmark, by name, how many prompts of the benchmark it shares, how many are equal, and examples."""
    known = {name: [_text(dialogue) for dialogue in prompts] for name, prompts in benchmarks.items()}
    index = BenchmarkIndex(known)
    found: list[dict[str, Any]] = []
    for task, dialogues in tasks.items():
        shared: dict[tuple[str, int], str] = {}
        for dialogue in dialogues:
            for place in index.overlaps(dialogue):
                shared.setdefault(place, _text(dialogue))
        asked = {_plain(_text(dialogue)) for dialogue in dialogues}
        for name, prompts in known.items():
            own = sorted(number for place, number in shared if place == name)
            examples = [{"benchmark": prompts[number][:200], "task": shared[name, number][:200]} for number in own[:MAX_SHOWN]]
            equal = sum(_plain(text) in asked for text in prompts)
            entry = {"benchmark": name, "task": task, "shared": len(own), "equal": equal, "of": len(prompts), "examples": examples}
            found.append(entry | {"num_task_prompts": len(dialogues)})
    return found


def read_prompts(paths: Sequence[str], key: str) -> dict[str, list[Dialogue]]:
    """The prompts of files by name: JSONL, CSV or parquet with a column prompt, messages, question, problem, instruction, input or goal.

    Raises `ValueError` that names `key` and the file or row without one.
    """
    names = Counter(Path(path).name for path in paths)
    return {path if names[Path(path).name] > 1 else Path(path).name: list(_prompts(path, key)) for path in paths}


def _prompts(path: str, key: str) -> Iterator[Dialogue]:
    for number, row in enumerate(read_cells(Path(path), key=key), 1):
        column = next((name for name in _COLUMNS if row.get(name)), None)
        if column is None:
            raise ValueError(f"{path}, row {number} has no prompt; it takes one of the columns {', '.join(_COLUMNS)}.")
        yield parse_dialogue(row[column], f"{path}, row {number}: {column}")


def _text(dialogue: Dialogue) -> str:
    return "\n".join(turn.content for turn in dialogue if turn.role == "user")


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
