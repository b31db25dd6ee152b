"""Dialogues from rows: messages with all that a chat template reads of them, plain text, and transcripts of HH-RLHF's form."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from core.records import Answer, Dialogue, Message, user

TURN_KEYS = (
    "tool_calls", "tool_call_id", "tool_responses", "tool_results", "tool_plan", "function_call", "name", "reasoning_content", "reasoning",
    "thinking", "channel", "recipient", "citations",
)  # fmt: skip
"""Keys of a message, besides role and content, that chat templates read."""
DIALOGUE_KEYS = ("tools", "documents", "chat_template_kwargs")
"""What a template reads besides the messages, by the names of the columns that hold it. A dialogue carries it on its first turn."""
SYSTEM_KEYS = ("system", "system_prompt")
"""Columns for a system turn before the prompt."""

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_LOOSE_SPEAKER = re.compile(r"\n+[ \t]*(Human|Assistant):")


def parse_dialogue(value: object, where: str) -> Dialogue:
    """The dialogue in a string or in a list of messages; `where` names the row in errors.

    A string is one user turn, or a transcript that ends where the assistant is to answer. A message has a `role`, a `content`
    (text or a list of parts that are text; it may be missing beside tool calls or the like) and keys for the chat template; others,
    such as a timestamp, are left out.
    """
    if isinstance(value, str):
        turns = parse_transcript(value)
        if turns is None:
            return user(value)
        if turns[-1].role == "assistant" and turns[-1].content:
            raise ValueError(f"{where}: the transcript ends with an answer of the assistant; end it with 'Assistant:'.")
        return turns[:-1] if turns[-1].role == "assistant" else turns
    if not isinstance(value, Sequence) or not value:
        raise ValueError(f"{where}: expected text or a non-empty list of messages, got {type(value).__name__}.")
    return tuple(_message(turn, where) for turn in value)


def parse_transcript(text: str) -> Dialogue | None:
    """The turns of a transcript of HH-RLHF's form, after "Human:" and "Assistant:"; None for other text.

    Two turns in a row by one speaker (9 of the 2,312 rows of HH's harmless test set) become one turn of two paragraphs: many
    chat templates raise unless the roles alternate.
    """
    if not text.lstrip().startswith("Human:"):
        return None
    speaker = _SPEAKER
    if not text.startswith("\n\nHuman:"):  # without the blank lines before it, only if the assistant speaks too
        if re.search(r"\n\nAssistant:", text) is None:
            if re.search(r"\nAssistant:\s*\Z", text) is None:
                return None
            speaker = _LOOSE_SPEAKER
        text = f"\n\n{text.lstrip()}"
    _, *parts = speaker.split(text)
    turns: list[Message] = []
    for name, said in zip(parts[::2], parts[1::2], strict=True):
        role, content = "user" if name == "Human" else "assistant", said.strip()
        if turns and turns[-1].role == role:
            content = f"{turns.pop().content}\n\n{content}".strip()
        turns.append(Message(role=role, content=content))
    return tuple(turns)


def continued(transcript: str, answer: str) -> Dialogue:
    """The turns of a transcript that ends where the assistant is to answer, or in the middle of its answer, and the answer."""
    turns = parse_transcript(transcript)
    assert turns is not None
    names = {"user": "Human", "assistant": "Assistant"}
    begun = "".join(f"\n\n{names[turn.role]}: {turn.content}" for turn in turns)
    asks = transcript[len(transcript.rstrip()) :] if turns[-1].role == "assistant" else "\n\nAssistant: "
    whole = parse_transcript(begun + asks + answer)
    assert whole is not None
    return whole


def with_columns(row: Mapping[str, Any], dialogue: Dialogue) -> Dialogue:
    """The dialogue with what other columns of its row hold for it: a system turn, tools, documents, arguments of the template.

    Raises `ValueError` for a column of another form, and for a system turn that contradicts the dialogue's own.
    """
    for key in SYSTEM_KEYS:
        told = row.get(key)
        if told is None or told == "":
            continue
        if not isinstance(told, str):
            raise ValueError(f"{key} is {told!r:.80}, not text")
        if dialogue[0].role not in ("system", "developer"):
            dialogue = (Message(role="system", content=told), *dialogue)
        elif dialogue[0].content.strip() != told.strip():
            raise ValueError(
                f"the column {key} says {told!r:.80}, and the dialogue begins with the system turn {dialogue[0].content!r:.80}"
            )
    found = {key: _plain(value, key) for key in DIALOGUE_KEYS if (value := row.get(key))}
    if not found:
        return dialogue
    first = dialogue[0]
    return (Message(role=first.role, content=first.content, fields=_json({**fields_of(first), **found})), *dialogue[1:])


def fields_of(turn: Message) -> dict[str, Any]:
    """What a turn holds for the chat template besides role and content."""
    return json.loads(turn.fields) if turn.fields else {}


def messages_of(dialogue: Dialogue) -> list[dict[str, Any]]:
    """The dialogue as the list of messages that `parse_dialogue` reads; what belongs to all of it stands in the first."""
    return [{"role": turn.role, "content": turn.content, **fields_of(turn)} for turn in dialogue]


def template_input(dialogue: Dialogue) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages for the chat template, and the arguments beside them."""
    messages = messages_of(dialogue)
    beside = {key: messages[0].pop(key) for key in DIALOGUE_KEYS if key in messages[0]} if messages else {}
    return messages, {**beside.pop("chat_template_kwargs", {}), **beside}


def turn_of(answer: Answer) -> Message:
    """The assistant's turn that an answer is."""
    return Message(role="assistant", content=answer) if isinstance(answer, str) else answer


def answer_of(turn: Message) -> Answer:
    """The answer that a turn of the assistant is: its text, or the turn where there is more to it."""
    return turn if turn.fields else turn.content


def _message(turn: object, where: str) -> Message:
    if isinstance(turn, Mapping) and isinstance(turn.get("role"), str):
        content = _joined(turn.get("content"), where)
        fields = {key: _plain(value, key) for key in (*TURN_KEYS, *DIALOGUE_KEYS) if (value := turn.get(key))}
        if isinstance(content, str) or (content is None and fields):
            return Message(role=turn["role"], content=content or "", fields=_json(fields) if fields else "")
    raise ValueError(f"{where}: every message needs a 'role' and a 'content' that are text, got {turn!r:.120}.")


def _joined(content: object, where: str) -> object:
    """The text of a content that is given as a list of parts, one after another as chat templates write them; any other as it is."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return content
    texts: list[str] = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ValueError(f"{where}: a message has a part that is no text ({kind!r:.80}); only text can be read.")
        texts.append(part["text"])
    return "".join(texts)


def _plain(value: object, key: str) -> object:
    """The value of a key; lists and mappings may be given as JSON, since the columns of a table have one type."""
    if not isinstance(value, str) or key not in ("tools", "tool_calls", "documents", "chat_template_kwargs"):
        return _without_nulls(value)
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"{key} is {value!r:.80}, neither a list nor JSON") from error


def _without_nulls(value: object) -> object:
    """Without the nulls that tables fill in for keys which other rows have."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _json(fields: Mapping[str, Any]) -> str:
    try:
        # The order of keys stays: templates write them in it.
        return json.dumps(fields, ensure_ascii=False)
    except TypeError as error:  # dates and the like, from parquet files
        raise ValueError(f"{', '.join(fields)}: {error}") from error
