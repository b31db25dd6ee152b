"""Prompts that a benchmark shares with the tasks it is to predict: the paper's main claim for RewardBench 2 is that there are none.

By the rule of Tulu 3, as in decontamination (`rmtrain.decontaminate`): more than half of a benchmark prompt's words lie in 8-grams that
a task's prompt has too; prompts of fewer than 8 words must be equal up to case and punctuation.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.data.dialogues import parse_dialogue
from core.records import Dialogue
from evalhooks.analysis.table import read_cells
from rmtrain.decontaminate import BenchmarkIndex

_COLUMNS = ("prompt", "messages", "question", "problem", "instruction", "input", "goal")
MAX_SHOWN = 3


def overlap(benchmark_prompts: Sequence[str], task_prompts: Sequence[str]) -> list[dict[str, Any]]:
    """For each file of task prompts and each of benchmark prompts, how many prompts of the benchmark it shares, with examples.

    Files are JSONL, CSV or parquet with a column prompt, messages, question, problem, instruction, input or goal. Raises `ValueError` that
    names a file or row without one.
    """
    benchmarks = {path: [_text(dialogue) for dialogue in _prompts(path, "benchmark_prompts")] for path in benchmark_prompts}
    index = BenchmarkIndex(benchmarks)
    found: list[dict[str, Any]] = []
    for path in task_prompts:
        dialogues = list(_prompts(path, "task_prompts"))
        shared: dict[tuple[str, int], str] = {}
        for dialogue in dialogues:
            for place in index.overlaps(dialogue):
                shared.setdefault(place, _text(dialogue))
        for name, prompts in benchmarks.items():
            own = sorted(number for place, number in shared if place == name)
            examples = [{"benchmark": prompts[number][:200], "task": shared[name, number][:200]} for number in own[:MAX_SHOWN]]
            entry = {"benchmark": Path(name).name, "task": Path(path).name, "shared": len(own), "of": len(prompts), "examples": examples}
            found.append(entry | {"num_task_prompts": len(dialogues)})
    return found


def _prompts(path: str, key: str) -> Iterator[Dialogue]:
    for number, row in enumerate(read_cells(Path(path), key=key), 1):
        column = next((name for name in _COLUMNS if row.get(name)), None)
        if column is None:
            raise ValueError(f"{path}, row {number} has no prompt; it takes one of the columns {', '.join(_COLUMNS)}.")
        yield parse_dialogue(row[column], f"{path}, row {number}: {column}")


def _text(dialogue: Dialogue) -> str:
    return "\n".join(turn.content for turn in dialogue if turn.role == "user")
