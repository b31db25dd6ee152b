"""Prompts for PPO, out of any JSONL file with a prompt in each row."""

from collections.abc import Sequence
from pathlib import Path

from core.chat import parse_dialogue
from core.records import Dialogue
from core.rows import read_rows

KEYS = ("prompt", "question")


def read_prompts(paths: Sequence[str]) -> list[Dialogue]:
    """The different prompts of all files, in order; a preference file serves with its `prompt` field.

    Raises `ValueError` that names the file and row without one.
    """
    found: dict[Dialogue, None] = {}
    for path in paths:
        file = Path(path).expanduser()
        if not file.is_file():
            raise ValueError(f"prompts names {path}, which does not exist; give JSONL files with a prompt in each row.")
        for number, row in read_rows(file):
            where = f"{path}, row {number}"
            key = next((key for key in KEYS if isinstance(row, dict) and key in row), None)
            if key is None:
                raise ValueError(f"{where} has neither {' nor '.join(KEYS)}; add the prompt or leave the row out.")
            found[parse_dialogue(row[key], where)] = None
    if not found:
        raise ValueError(f"{', '.join(paths)} hold no prompts.")
    return list(found)
