"""Parses a preference pair from one row, in any of the forms such data comes in."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.data.dialogues import answer_of, continued, parse_dialogue, parse_transcript, turn_of, with_columns
from core.records import Answer, Dialogue, Preference
from core.text import printable

MAX_SOURCE = 60
"""Characters of a row's `source` that count."""
SIDES = ("chosen", "rejected")
MAX_MARGIN = 1e6
"""Far above any difference of rewards: a larger margin is a mistake."""


def parse_preference(row: object, *, source: str = "", where: str = "") -> Preference:
    """The pair in one row; raises a `ValueError` with the reason if there is none. A null counts as a missing field.

    The prompt is the row's `prompt` (text, messages, or a transcript such as HH-RLHF's) or, without one, the shared beginning of
    the two dialogues. If `prompt` is one of the user turns of two whole dialogues, as in Tulu 3's preference mix, all turns
    before the last one are the prompt. Columns for a system turn or tools belong to it (see `core.data.dialogues.with_columns`).
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"not a JSON object: {row!r:.80}")
    missing = [key for key in SIDES if not row.get(key)]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing or empty; the row has {sorted(map(str, row))}")
    margin = row.get("margin")
    is_number = isinstance(margin, int | float) and not isinstance(margin, bool)
    if margin is not None and not (is_number and abs(margin) <= MAX_MARGIN):  # NaN is not below either
        raise ValueError(f"margin is {margin!r:.80}, not a number up to {MAX_MARGIN:g}")
    prompt, chosen, rejected = _explicit(row) if row.get("prompt") else _implicit(row)
    prompt = with_columns(row, prompt)
    for turn in (turn_of(chosen), turn_of(rejected), *prompt):
        (turn.content + turn.fields).encode()  # raises a ValueError for a lone surrogate, which no tokenizer accepts
    named = _source(row.get("source") or source)
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, margin=margin, source=named, where=where)


def _source(name: object) -> str:
    """Where a pair comes from, fit to be part of a metric's name."""
    return " ".join(printable(str(name)).split())[:MAX_SOURCE]


def _explicit(row: Mapping[str, Any]) -> tuple[Dialogue, Answer, Answer]:
    """Prompt and completions of a row with a prompt; each side is text, one assistant message or a whole dialogue."""
    asked = row["prompt"]
    whole = are_transcripts([row[key] for key in SIDES])
    sides = {key: answer_turns(row[key], key, asked, whole=whole) for key in SIDES}
    chosen, rejected = sides.values()
    wrong = "must be text, or the prompt's messages and one of the assistant"
    if spoken := [key for key, turns in sides.items() if turns[-1].role != "assistant"]:
        raise ValueError(f"{spoken[0]} {wrong}")
    answers = answer_of(chosen[-1]), answer_of(rejected[-1])
    if isinstance(asked, str) and len(chosen) > 1 and len(rejected) > 1:
        _require_alike(chosen, rejected)
        if not begins(asked, chosen):
            raise ValueError(f"prompt is none of the user turns of chosen and rejected: {asked.strip()!r:.80}")
        return chosen[:-1], *answers
    prompt = parse_dialogue(asked, "prompt")
    if strange := [key for key, turns in sides.items() if turns[:-1] not in ((), prompt)]:
        raise ValueError(f"{strange[0]} {wrong}")
    return prompt, *answers


def are_transcripts(answers: Sequence[object]) -> bool:
    """Whether all answers are transcripts of at least two turns."""
    return all(isinstance(text, str) and len(parse_transcript(text) or ()) > 1 for text in answers)


def answer_turns(value: object, key: str, asked: object, *, whole: bool) -> Dialogue:
    """The turns that a row with the prompt `asked` holds under `key`: an answer alone, or a whole dialogue.

    `whole` says that all answers of the row are transcripts (`are_transcripts`).
    """
    if not isinstance(value, str):
        return parse_dialogue(value, key)
    turns = parse_transcript(value)
    transcribed = isinstance(asked, str) and parse_transcript(asked) is not None
    # An answer may itself look like a transcript: alone of its row, it is one only if the prompt is in it.
    if turns is not None and len(turns) > 1 and (whole or transcribed or not isinstance(asked, str) or begins(asked, turns)):
        return turns
    if transcribed:
        assert isinstance(asked, str)
        return continued(asked, value)
    return (turn_of(value),)


def begins(asked: str, dialogue: Dialogue) -> bool:
    """Whether a text prompt is one of the user turns before the last turn of a dialogue, or all turns before it."""
    turns = parse_transcript(asked)
    if turns is None:
        return any(turn.role == "user" and turn.content.strip() == asked.strip() for turn in dialogue[:-1])
    begun = turns[-1] if turns[-1].role == "assistant" else None  # empty, or the beginning of the answer
    before = turns if begun is None else turns[:-1]
    return before == dialogue[:-1] and (begun is None or dialogue[-1].content.startswith(begun.content))


def _implicit(row: Mapping[str, Any]) -> tuple[Dialogue, Answer, Answer]:
    """Prompt and completions of a row whose prompt is the shared beginning of two dialogues."""
    chosen, rejected = (_transcript(row[key], key) for key in SIDES)
    if len(chosen) < 2 or len(rejected) < 2:
        raise ValueError("without a prompt, chosen and rejected must be dialogues of at least two turns")
    _require_alike(chosen, rejected)
    if not all(turns[-1].role == "assistant" for turns in (chosen, rejected)):
        raise ValueError("the last turn of chosen and rejected must be the assistant's")
    return chosen[:-1], answer_of(chosen[-1]), answer_of(rejected[-1])


def _require_alike(chosen: Dialogue, rejected: Dialogue) -> None:
    """Raises `ValueError` unless the two dialogues differ only in their last turn."""
    if chosen[:-1] == rejected[:-1]:
        return
    parted = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False), 1) if a != b), min(len(chosen), len(rejected)))
    raise ValueError(
        f"chosen and rejected must be dialogues that differ in their last turn alone; they part at turn {parted} of "
        f"{len(chosen)} and {len(rejected)}"
    )


def _transcript(value: object, key: str) -> Dialogue:
    if not isinstance(value, str):
        return parse_dialogue(value, key)
    turns = parse_transcript(value)
    if turns is None:
        raise ValueError(f"prompt is missing, and {key} is neither a list of messages nor a Human/Assistant transcript")
    return turns
