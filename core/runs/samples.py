"""Samples of a run on disk: `samples/step-NNNNNN.*.jsonl`, what a checkpoint answered or got wrong, for people to read.

A row holds `kind`, `prompt` (a list of turns) and `completions`, each with `text` and `score`, and `correct` where that is known; of
a reward model also its `margin` on the row, below 0 where it is wrong.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.disk import BrokenFileError, jsonable, parse_json, read_lines, remove
from core.records import Answer, Dialogue
from core.runs.checkpoints import STEP_FOLDER, step_folder

FOLDER = "samples"

Sample = Mapping[str, Any]

SAMPLE_COLUMNS = ("place", "prompt", "completion", "score", "correct", "margin")
"""The columns of samples as a table."""


def write_samples(run_dir: Path, step: int, kind: str, rows: Sequence[Sample]) -> None:
    """Writes the samples of one kind, such as "held_out", at a step, atomically; nothing without any."""
    if not rows:
        return
    file = run_dir / FOLDER / f"{step_folder(run_dir, step).name}.{kind}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".tmp-{file.name}-{os.getpid()}")
    lines = [json.dumps(jsonable({"kind": kind, "step": step, **row}), ensure_ascii=False, allow_nan=False) for row in rows]
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(file)


def read_samples(run_dir: Path, step: int) -> list[dict[str, Any]]:
    """The samples of a step; lines that cannot be read are left out."""
    found: list[dict[str, Any]] = []
    for file in sorted((run_dir / FOLDER).glob(f"{step_folder(run_dir, step).name}.*.jsonl")):
        for number, text in read_lines(file):
            try:
                row = parse_json(text, f"{file}:{number}", remedy="it is left out")
            except BrokenFileError:
                continue
            if isinstance(row, dict):
                found.append(row)
    return found


def sample_tables(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """Samples as tables by kind, `samples/held_out` for instance: a row per completion, with `SAMPLE_COLUMNS`."""
    tables: dict[str, list[Any]] = {}
    for sample in samples:
        rows = tables.setdefault(f"samples/{sample['kind']}", [])
        place = " ".join(str(sample[key]) for key in ("subset", "source", "task", "id") if sample.get(key))
        prompt = "\n\n".join(f"[{turn['role']}] {turn['content']}" for turn in sample["prompt"])
        for completion in sample["completions"]:
            numbers = (completion.get("score"), completion.get("correct"), sample.get("margin"))
            rows.append([place, prompt, completion["text"], *(None if value is None else float(value) for value in numbers)])
    return tables


def forget_samples(run_dir: Path, after: int) -> None:
    """Removes the samples of later steps, of a run that goes on from `after` and will write them again."""
    for file in (run_dir / FOLDER).glob("step-*.jsonl"):
        if (match := STEP_FOLDER.fullmatch(file.name.partition(".")[0])) and int(match[1]) > after:
            remove(file)


def turns(dialogue: Dialogue) -> list[dict[str, str]]:
    """A prompt as its turns."""
    return [{"role": message.role, "content": message.content} for message in dialogue]


def text_of(answer: Answer) -> str:
    """An answer as text; of a whole turn its content, or else what it holds instead, such as tool calls."""
    return answer if isinstance(answer, str) else answer.content or answer.fields
