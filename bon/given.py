"""Pools of others: prompts and completions from any file, taken as they are, with or without correctness.

A row holds a prompt (text or messages) and a list of completions, or one completion each; rows of one prompt then belong together by
their id, or by the prompt itself where there are no ids, or where each row has its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bon.rows import PoolRow
from core.data.dialogues import parse_dialogue, with_columns
from core.data.rows import dataset_rows, read_rows, require_whole_text
from core.records import Dialogue

PROMPTS = ("prompt", "messages", "question", "instruction", "query")
IDS = ("prompt_id", "question_id", "id", "uid", "idx")
LISTS = ("completions", "responses", "outputs", "generations", "samples", "candidates")
SINGLES = ("completion", "response", "output", "generation", "answer", "text")
CORRECT = ("correct", "is_correct", "correctness", "labels", "label")
MODELS = ("models", "model", "generator")
TASK = "task"


@dataclass(kw_only=True, slots=True)
class _Gathered:
    """A prompt and what the rows about it have brought so far."""

    prompt: Dialogue
    where: str
    is_single: bool
    completions: list[str] = field(default_factory=list[str])
    correct: list[float] = field(default_factory=list[float])
    models: list[str] = field(default_factory=list[str])


def read_given(path: str) -> dict[str, list[PoolRow]]:
    """The rows of a file or folder, by their column `task`, or under the name of the file.

    Raises `ValueError` that names the file and the row for what cannot be read: no prompt, no completions, correctness of some
    completions of a prompt only or outside 0 to 1, two prompts with one id.
    """
    place = Path(path).expanduser()
    default = place.name.partition(".")[0] or "pool"
    remedy = "name a file: pools=FILE.jsonl"
    rows = read_rows(place) if place.is_file() else dataset_rows(path, split="train", what=f"pools={path}", remedy=remedy, lone_split=True)
    found: dict[str, dict[object, _Gathered]] = {}
    for number, row in rows:
        where = f"{path}, row {number}"
        if not isinstance(row, Mapping):
            raise ValueError(f"{where} is {row!r:.80}, no row with a prompt and completions.")
        require_whole_text(row, where)
        _gather(found.setdefault(_task(row, default, where), {}), row, number, where)
    if not found:
        raise ValueError(f"pools={path} holds no rows.")
    return {task: [_row(id, own) for id, own in _by_prompt(known).items()] for task, known in found.items()}


def _by_prompt(known: Mapping[object, _Gathered]) -> Mapping[object, _Gathered]:
    """The same, by prompt where every completion came with an id of its own though prompts repeat."""
    if not all(own.is_single and len(own.completions) == 1 for own in known.values()):
        return known
    together: dict[Dialogue, _Gathered] = {}
    for own in known.values():
        first = together.setdefault(own.prompt, own)
        if first is not own:
            _require_alike(first, own)
            first.completions += own.completions
            first.correct += own.correct
            first.models += own.models
    return known if len(together) == len(known) else {**together}


def _require_alike(first: _Gathered, other: _Gathered) -> None:
    """Raises `ValueError` where of two rows about one prompt one has correctness and the other not."""
    if bool(first.correct) != bool(other.correct):
        raise ValueError(
            f"{other.where} and {first.where.rpartition(', ')[2]} are about one prompt, and one of them lacks correctness; mend it."
        )


def _gather(known: dict[object, _Gathered], row: Mapping[str, Any], number: int, where: str) -> None:
    prompt = _prompt(row, where)
    lists, texts = _completions(row, where)
    named = next((str(row[key]) for key in IDS if row.get(key) is not None), None)
    id = named if named is not None else prompt if not lists else str(number)
    own = known.setdefault(id, _Gathered(prompt=prompt, where=where, is_single=not lists))
    if own.prompt != prompt:
        raise ValueError(f"{where} and {own.where.rpartition(', ')[2]} have the id {id!r:.80} and different prompts; give each its own.")
    correct = list(_correct(row, len(texts), lists, where))
    if own.completions:
        _require_alike(own, _Gathered(prompt=prompt, where=where, is_single=not lists, correct=correct))
    own.completions += texts
    own.correct += correct
    own.models += _models(row, len(texts), lists, where)


def _row(id: object, own: _Gathered) -> PoolRow:
    whole = len(own.models) == len(own.completions)
    name = id if isinstance(id, str) else own.where.rpartition("row ")[2]  # of rows without ids
    return PoolRow(
        id=name,
        prompt=own.prompt,
        completions=tuple(own.completions),
        correct=tuple(own.correct),
        models=tuple(own.models) if whole else (),
    )


def _task(row: Mapping[str, Any], default: str, where: str) -> str:
    name = row.get(TASK) or default
    if (
        not isinstance(name, str)
        or name != name.strip()
        or name == "average"
        or any(char in name for char in "/\\@")
        or not name.isprintable()
    ):
        raise ValueError(f"{where} has the task {name!r:.80}; a task has a name such as gsm8k, without / \\ and @, and not `average`.")
    return name


def _prompt(row: Mapping[str, Any], where: str) -> Dialogue:
    for key in PROMPTS:
        if row.get(key):
            prompt = parse_dialogue(row[key], where)
            if prompt[-1].role == "assistant":
                raise ValueError(f"{where}: {key} ends with an answer of the assistant; end it where the completions begin.")
            try:
                return with_columns(row, prompt)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
    raise ValueError(f"{where} has no prompt among its columns {', '.join(map(str, row))}; call it one of {', '.join(PROMPTS)}.")


def _completions(row: Mapping[str, Any], where: str) -> tuple[bool, list[str]]:
    """Whether the row holds a list of completions, and their texts."""
    for key in LISTS:
        if row.get(key) is not None:
            if not isinstance(row[key], Sequence) or isinstance(row[key], str) or not row[key]:
                raise ValueError(f"{where}: {key} is {row[key]!r:.80}; it must be a list of completions that is not empty.")
            return True, [_text(item, f"{where}: {key}") for item in row[key]]
    for key in SINGLES:
        if row.get(key) is not None:
            return False, [_text(row[key], f"{where}: {key}")]
    known = f"{', '.join(LISTS)} for a list, {', '.join(SINGLES)} for one"
    raise ValueError(f"{where} has no completions among its columns {', '.join(map(str, row))}; call them one of {known}.")


def _text(item: object, where: str) -> str:
    """A completion: text, a message, or a dialogue that ends with the assistant's message."""
    if isinstance(item, Sequence) and not isinstance(item, str) and item:
        item = item[-1]
    if isinstance(item, Mapping):
        item = next((item[key] for key in ("content", "text", "completion") if key in item), item)
    if not isinstance(item, str):
        raise ValueError(f"{where} holds {item!r:.80}, which is no text.")
    return item


def _correct(row: Mapping[str, Any], num: int, lists: bool, where: str) -> Iterator[float]:
    key = next((key for key in CORRECT if row.get(key) is not None), None)
    if key is None:
        return
    values = row[key] if lists else [row[key]]
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != num:
        raise ValueError(f"{where}: {key} is {values!r:.80}; it must hold a value for each of the {num} completions.")
    for value in values:
        if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
            raise ValueError(f"{where}: {key} holds {value!r:.80}; correctness is true or false, or a number from 0 to 1.")
        yield float(value)


def _models(row: Mapping[str, Any], num: int, lists: bool, where: str) -> list[str]:
    for key in MODELS:
        match row.get(key):
            case None:
                continue
            case str(name):
                return [name] * num
            case [*names] if lists and len(names) == num:
                return [str(name) for name in names]
            case other:
                raise ValueError(f"{where}: {key} is {other!r:.80}; it must be a name, or one for each of the {num} completions.")
    return []
