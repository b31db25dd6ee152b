"""What a chat template leaves out of a dialogue.

Templates do so on purpose (the reasoning of earlier answers), for want of a branch (a role, a key), or by raising. What a whole
kind of dialogue loses is seen from a trial with contents that occur nowhere else; what one dialogue loses, from its own text.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from core.data.dialogues import fields_of
from core.records import Dialogue, Message

REASONING_KEYS = {"reasoning_content", "reasoning", "thinking"}
_END_OF_REASONING = "</think>"

Render = Callable[[Dialogue], str]
"""The text that the template makes of a dialogue; raises `ValueError` where it refuses."""
_Kind = tuple[str, frozenset[tuple[str, tuple[str, ...], bool]], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What the text of a dialogue lacks, in words. With a `reason`, nothing sensible is left."""

    lost: tuple[str, ...] = ()
    reason: str = ""


class TemplateCheck:
    """Compares dialogues with their texts; makes one trial for each kind of dialogue: its roles, and the keys of its turns."""

    def __init__(self, render: Render, *, answered: bool) -> None:
        self._render, self._answered = render, answered
        self._by_kind: dict[_Kind, Check] = {}

    def of(self, dialogue: Dialogue, text: str) -> Check:
        """What `text`, the rendered dialogue, lacks."""
        kind = _kind(dialogue)
        if kind not in self._by_kind:
            self._by_kind[kind] = self._try(dialogue)
        found = self._by_kind[kind]
        own = [name for place, turn in enumerate(dialogue) if (name := self._lost_of(turn, place == len(dialogue) - 1, text))]
        return replace(found, lost=tuple(dict.fromkeys((*found.lost, *own)))) if own else found

    def _lost_of(self, turn: Message, is_last: bool, text: str) -> str:
        """What the text lacks of one turn; empty if it has all that should be there."""
        if turn.content in text or _occurs(turn.content, text):
            return ""
        if turn.role == "assistant" and _END_OF_REASONING in turn.content:
            reasoning, _, rest = turn.content.rpartition(_END_OF_REASONING)
            if _occurs(rest, text):
                # Templates drop the reasoning of earlier answers on purpose, and lay out that of the last one in their own way.
                thought = reasoning.partition("<think>")[2] or reasoning
                return "the reasoning in the answer" if is_last and self._answered and not _occurs(thought, text) else ""
        return "the answer" if is_last and self._answered else f"the {turn.role} turn"

    def _try(self, dialogue: Dialogue) -> Check:
        """What dialogues of this kind lose: roles and keys that the template has no branch for."""
        numbers = count(1)
        marks = [f"Mark{next(numbers)}x7" if turn.content.strip() else "" for turn in dialogue]
        trial = tuple(replace(turn, content=mark) for turn, mark in zip(dialogue, marks, strict=True))
        try:
            text = self._render(trial)
        except ValueError:  # it looks into the contents, so the dialogues themselves must do
            return Check()
        written = [not mark or mark.casefold() in text.casefold() for mark in marks]
        silent = {turn.role for turn in trial} - {turn.role for turn, is_written in zip(trial, written, strict=True) if is_written}
        unread = self._unread(trial, text)
        lost = [f"the {role} turn" for role in sorted(silent)]
        lost += [key for key in unread if not self._dropped_on_purpose(key, dialogue)]
        return Check(lost=tuple(lost), reason=self._reason(dialogue, written, unread))

    def _reason(self, dialogue: Dialogue, written: Sequence[bool], unread: Sequence[str]) -> str:
        """Why dialogues of this kind cannot be used: nothing is left of the question, or of the answer. Empty if they can."""
        num_asked = len(dialogue) - self._answered
        if self._answered:
            answer = dialogue[-1]
            if not written[-1] and not fields_of(answer).keys() - unread:
                return "the chat template leaves out the answer"
            if not answer.content.strip() and answer.fields and not fields_of(answer).keys() - unread:
                return f"the chat template writes nothing of the answer, which is {' and '.join(fields_of(answer))}"
        questions = [place for place in range(num_asked) if dialogue[place].role == "user"]
        if (questions and not written[questions[-1]]) or (num_asked and not any(written[:num_asked])):
            return "the chat template leaves out what was asked"
        return ""

    def _unread(self, trial: Dialogue, text: str) -> list[str]:
        """The keys of the turns that make no difference to the text."""
        keys = dict.fromkeys(key for turn in trial for key in fields_of(turn))
        unread: list[str] = []
        for key in keys:
            try:
                if self._render(tuple(_without(turn, key) for turn in trial)) == text:
                    unread.append(key)
            except ValueError:  # it cannot do without
                pass
        return unread

    def _dropped_on_purpose(self, key: str, dialogue: Dialogue) -> bool:
        """Whether a key holds the reasoning of earlier answers alone."""
        return key in REASONING_KEYS and not (self._answered and key in fields_of(dialogue[-1]))


def described(lost: Mapping[str, int], total: int, what: str) -> list[str]:
    """One sentence for each thing that a template leaves out of some of `total` dialogues."""
    return [f"the chat template leaves out {name} of {num} of {total} {what}" for name, num in lost.items()]


def _kind(dialogue: Dialogue) -> _Kind:
    """Roles, keys, and whether there is text: what decides which branches a template takes."""
    turns = frozenset((turn.role, tuple(fields_of(turn)), bool(turn.content.strip())) for turn in dialogue)
    return dialogue[0].role, turns, dialogue[-1].role


def _without(turn: Message, key: str) -> Message:
    fields = {name: value for name, value in fields_of(turn).items() if name != key}
    return replace(turn, fields=json.dumps(fields, ensure_ascii=False) if fields else "")


def _occurs(content: str, text: str) -> bool:
    """Whether a content stands in the text, but for blanks and case, or escaped as in JSON."""
    stripped = content.strip()
    if stripped in text:
        return True
    if json.dumps(stripped)[1:-1] in text or json.dumps(stripped, ensure_ascii=False)[1:-1] in text:
        return True
    return "".join(content.split()).casefold() in "".join(text.split()).casefold()


def counted(checks: Sequence[Check]) -> dict[str, int]:
    """How many dialogues lack each thing."""
    found: dict[str, int] = {}
    for check in checks:
        for name in check.lost:
            found[name] = found.get(name, 0) + 1
    return found
