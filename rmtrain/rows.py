"""Preference pairs out of the rows of a file, a folder or a hub dataset, in the forms that such data comes in."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.chat import parse_dialogue
from core.records import Dialogue, Message, Preference
from core.rows import dataset_rows, numbered_lines, parquet_rows
from rmtrain.config import SourceConfig

MAX_REPORTED = 5
"""Broken rows that a message lists one by one, with their reasons."""
MAX_NUMBERED = 50
"""Further ones that it lists by number."""

ROW_FORMS = "A row is {'prompt', 'chosen', 'rejected'} as text or messages, or {'chosen', 'rejected'} as messages that begin alike."

SIDES = ("chosen", "rejected")
MAX_MARGIN = 1e6
"""Far above any difference of rewards; a larger one, or none at all, is a mistake."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadPairs:
    """The pairs of one source whose sides differ, out of `num_rows` rows, and how many rows were left out and why.

    >>> ReadPairs(pairs=[], num_rows=2, num_broken=1, num_equal=1).num_rows
    2
    """

    pairs: list[Preference]
    num_rows: int
    num_broken: int
    num_equal: int


def read_pairs(
    source: SourceConfig, name: str, *, key: str = "data.paths", skip_broken: bool = False, say: Callable[[str], None] = print
) -> ReadPairs:
    """All pairs of a source: a JSONL or parquet file, a folder of parquet files, a saved dataset, or a hub dataset.

    Rows whose two completions are equal carry no preference: they are dropped, and `say` is told how many. A row without
    a `source` of its own gets `name`. Raises `ValueError` that names `key` for what cannot be read, and one that lists the
    broken rows by number unless `skip_broken` leaves them out and tells `say` of them.
    """
    pairs: list[Preference] = []
    broken: dict[int, str] = {}
    num_rows = 0
    for number, row in _rows(source, key):
        num_rows += 1
        try:
            pairs.append(parse_row(row, source=name))
        except ValueError as error:
            broken[number] = f"row {number}: {error}"
    if broken:
        listed = _listed(broken, num_rows)
        if not pairs or not skip_broken:
            remedy = "Mend these rows." if skip_broken else "Mend or remove these rows, or leave them out with data.skip_broken=true."
            raise ValueError(f"{source.path} has {listed}\n{ROW_FORMS} {remedy}")
        say(f"{source.path}: left out {listed}")
    different = [pair for pair in pairs if pair.chosen != pair.rejected]
    if not different:
        raise ValueError(f"{source.path} holds no preference pairs; it needs at least one row whose chosen and rejected differ.")
    num_equal = len(pairs) - len(different)
    if num_equal:
        say(f"dropped {num_equal} of {len(pairs)} pairs of {source.path} whose chosen and rejected are the same text")
    return ReadPairs(pairs=different, num_rows=num_rows, num_broken=len(broken), num_equal=num_equal)


def parse_row(row: Any, *, source: str) -> Preference:
    """The pair of one row; raises `ValueError` with the reason where it holds none. A null counts as a missing field.

    The prompt is the row's `prompt` (text or messages) or, without one, what the two dialogues begin with. A row whose
    `prompt` is one of the user turns of two whole dialogues, as in Tulu 3's preference mix, has all the turns before the
    last one for a prompt.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"not a JSON object: {row!r:.80}")
    missing = [key for key in SIDES if not row.get(key)]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing or empty; the row has {sorted(map(str, row))}")
    margin = row.get("margin")
    if margin is not None and not (isinstance(margin, (int, float)) and abs(margin) <= MAX_MARGIN):
        raise ValueError(f"margin is {margin!r:.80}, not a number up to {MAX_MARGIN:g}")
    prompt, chosen, rejected = _explicit(row) if row.get("prompt") else _implicit(row)
    for text in (chosen, rejected, *(turn.content for turn in prompt)):
        text.encode()  # raises a ValueError for half of a surrogate pair, which no tokenizer takes
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, margin=margin, source=str(row.get("source") or source))


def _listed(broken: Mapping[int, str], num_rows: int) -> str:
    listed = "\n  ".join(list(broken.values())[:MAX_REPORTED])
    others = list(broken)[MAX_REPORTED:]
    numbers = ", ".join(map(str, others[:MAX_NUMBERED])) + (", ..." if len(others) > MAX_NUMBERED else "")
    more = f"\n  and {len(others)} more: {numbers}" if others else ""
    return f"{len(broken)} broken row(s) of {num_rows}:\n  {listed}{more}"


def _rows(source: SourceConfig, key: str) -> Iterator[tuple[int, Any]]:
    """Rows with their numbers, counted from 1; a line that is no JSON is yielded as text and found broken later."""
    file = Path(source.path).expanduser()
    if not file.is_file():
        split_key = (
            f"set {key}.split to one of them" if key != "data.paths" else "make it a source of data.sources with one of them as split"
        )
        yield from dataset_rows(source.path, split=source.split, what=f"{key} names {source.path}", remedy=split_key)
        return
    if source.split != "train":
        raise ValueError(f"{key} names {source.path}, a file, which has no split {source.split!r}; leave the split out.")
    yield from parquet_rows(file) if file.suffix == ".parquet" else ((number, _json(line)) for number, line in numbered_lines(file))


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # also numbers of thousands of digits, and brackets as deep
        return line.strip()


def _explicit(row: Mapping[str, Any]) -> tuple[Dialogue, str, str]:
    """Prompt and completions where the row has a prompt; each side is text, one assistant message or a whole dialogue."""
    prompt = parse_dialogue(row["prompt"], "prompt")
    chosen, rejected = (
        (Message(role="assistant", content=row[key]),) if isinstance(row[key], str) else parse_dialogue(row[key], key) for key in SIDES
    )
    sides = dict(zip(SIDES, (chosen, rejected), strict=True))
    wrong = "must be text, or the prompt's messages and one of the assistant"
    if spoken := [key for key, turns in sides.items() if turns[-1].role != "assistant"]:
        raise ValueError(f"{spoken[0]} {wrong}")
    answers = chosen[-1].content, rejected[-1].content
    if isinstance(row["prompt"], str) and len(chosen) > 1 and len(rejected) > 1:
        _require_alike(chosen, rejected)
        asked = row["prompt"].strip()
        if not any(turn.role == "user" and turn.content.strip() == asked for turn in chosen[:-1]):
            raise ValueError(f"prompt is none of the user turns of chosen and rejected: {asked!r:.80}")
        return chosen[:-1], *answers
    if strange := [key for key, turns in sides.items() if turns[:-1] not in ((), prompt)]:
        raise ValueError(f"{strange[0]} {wrong}")
    return prompt, *answers


def _implicit(row: Mapping[str, Any]) -> tuple[Dialogue, str, str]:
    """Prompt and completions where the prompt is the shared beginning of two dialogues."""
    chosen, rejected = (_transcript(row[key], key) for key in SIDES)
    if len(chosen) < 2 or len(rejected) < 2:
        raise ValueError("without a prompt, chosen and rejected must be dialogues of at least two turns")
    _require_alike(chosen, rejected)
    if not all(turns[-1].role == "assistant" for turns in (chosen, rejected)):
        raise ValueError("the last turn of chosen and rejected must be the assistant's")
    return chosen[:-1], chosen[-1].content, rejected[-1].content


def _require_alike(chosen: Dialogue, rejected: Dialogue) -> None:
    """Raises `ValueError` unless the two dialogues differ in their last turn alone."""
    if chosen[:-1] == rejected[:-1]:
        return
    parted = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False), 1) if a != b), min(len(chosen), len(rejected)))
    raise ValueError(
        f"chosen and rejected must be dialogues that differ in their last turn alone; they part at turn {parted} of "
        f"{len(chosen)} and {len(rejected)}"
    )


def _transcript(value: Any, key: str) -> Dialogue:
    """Messages, or the transcript form of HH-RLHF with its turns after "Human:" and "Assistant:".

    Where one side of a transcript speaks twice in a row (9 of the 2,312 rows of HH's harmless test set), it is one turn of
    two paragraphs: the other side may not do so, and many chat templates raise unless the roles alternate.
    """
    if not isinstance(value, str):
        return parse_dialogue(value, key)
    before, *parts = re.split(r"\n\n(Human|Assistant):", value)
    if before or parts[:1] != ["Human"]:
        raise ValueError(f"prompt is missing, and {key} is neither a list of messages nor a Human/Assistant transcript")
    turns: list[Message] = []
    for speaker, text in zip(parts[::2], parts[1::2], strict=True):
        role, content = "user" if speaker == "Human" else "assistant", text.strip()
        if turns and turns[-1].role == role:
            content = f"{turns.pop().content}\n\n{content}".strip()
        turns.append(Message(role=role, content=content))
    return tuple(turns)
