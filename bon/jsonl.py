"""Pools of earlier versions: a JSONL file per task with the completions of each prompt and their correctness."""

from pathlib import Path

from bon.rows import PoolRow
from bon.store import remedy_of
from core.data.dialogues import parse_dialogue
from core.data.rows import numbered_lines
from core.disk import BrokenFileError, parse_json


def read_jsonl(folder: Path, task: str) -> list[PoolRow]:
    """The rows of a task. Raises `BrokenFileError` that names the file and the row which is none."""
    file, remedy = folder / f"{task}.jsonl", remedy_of(folder)
    if not file.is_file():
        raise BrokenFileError(f"{file} is missing; {remedy}.")
    rows = [_row(line, f"{file}, row {number}", remedy) for number, line in numbered_lines(file)]
    if not rows:
        raise BrokenFileError(f"{file} has no rows; {remedy}.")
    return rows


def _row(line: str, where: str, remedy: str) -> PoolRow:
    row = parse_json(line, where, remedy=remedy)
    try:
        prompt = parse_dialogue(row["prompt"], where)
        found = PoolRow(id=row["id"], prompt=prompt, completions=tuple(row["completions"]), correct=tuple(map(float, row["correct"])))
    except (KeyError, TypeError) as error:
        raise BrokenFileError(f"{where} is no row of a pool ({type(error).__name__}: {error}); {remedy}.") from error
    except ValueError as error:  # of `float`, or of the prompt
        raise BrokenFileError(f"{where} is no row of a pool ({error}); {remedy}.") from error
    if not isinstance(row["completions"], list) or not all(isinstance(text, str) for text in row["completions"]):
        raise BrokenFileError(f"{where} has completions that are not a list of texts; {remedy}.")
    if len(found.completions) != len(found.correct) or not found.completions:
        counts = f"{len(found.completions)} completions and {len(found.correct)} values of `correct`"
        raise BrokenFileError(f"{where} has {counts}; {remedy}.")
    if wrong := [value for value in row["correct"] if not isinstance(value, int | float) or not 0 <= value <= 1]:
        raise BrokenFileError(f"{where} has {wrong[0]!r} among its values of `correct`, which lie between 0 and 1; {remedy}.")
    return found
