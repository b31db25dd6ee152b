"""Parses a preference pair from one row, in any of the forms such data comes in."""

import re
from collections.abc import Mapping
from typing import Any

from core.data.chat import parse_dialogue
from core.records import Dialogue, Message, Preference

SIDES = ("chosen", "rejected")
MAX_MARGIN = 1e6
"""Far above any difference of rewards: a larger margin is a mistake."""


def parse_preference(row: object, *, source: str = "") -> Preference:
    """The pair in one row; raises a `ValueError` with the reason if there is none. A null counts as a missing field.

    The prompt is the row's `prompt` (text or messages) or, without one, the shared beginning of the two dialogues. If
    `prompt` is one of the user turns of two whole dialogues, as in Tulu 3's preference mix, all turns before the last one
    are the prompt.
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
        text.encode()  # raises a ValueError for a lone surrogate, which no tokenizer accepts
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, margin=margin, source=str(row.get("source") or source))


def _explicit(row: Mapping[str, Any]) -> tuple[Dialogue, str, str]:
    """Prompt and completions of a row with a prompt; each side is text, one assistant message or a whole dialogue."""
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
    """Prompt and completions of a row whose prompt is the shared beginning of two dialogues."""
    chosen, rejected = (_transcript(row[key], key) for key in SIDES)
    if len(chosen) < 2 or len(rejected) < 2:
        raise ValueError("without a prompt, chosen and rejected must be dialogues of at least two turns")
    _require_alike(chosen, rejected)
    if not all(turns[-1].role == "assistant" for turns in (chosen, rejected)):
        raise ValueError("the last turn of chosen and rejected must be the assistant's")
    return chosen[:-1], chosen[-1].content, rejected[-1].content


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
    """Messages, or the transcript form of HH-RLHF with its turns after "Human:" and "Assistant:".

    Two turns in a row by one speaker (9 of the 2,312 rows of HH's harmless test set) become one turn of two paragraphs:
    many chat templates raise unless the roles alternate.
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
