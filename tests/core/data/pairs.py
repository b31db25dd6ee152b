"""A pair of answers in the forms that a data set may give it."""

from collections.abc import Sequence
from typing import Any

from core.records import Message, Preference, user

ASKED = (("user", "Name a fruit."),)
PLUM = {"prompt": "Name a fruit.", "chosen": "A plum.", "rejected": "A lamp."}
PLUM_PAIR = Preference(prompt=user("Name a fruit."), chosen="A plum.", rejected="A lamp.", source="pairs")
BEGINNING = (("system", "Be short."), ("user", "Hello."), ("assistant", "Hi."), ("user", "Name a fruit."))
BEGUN = tuple(Message(role=role, content=content) for role, content in BEGINNING)


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def dialogue(answer: str, beginning: Sequence[tuple[str, str]] = BEGINNING, **more: Any) -> list[dict[str, Any]]:
    return [turn(role, content, **more) for role, content in (*beginning, ("assistant", answer))]
