"""From dialogues to token ids: rendered by the chat template once, checked for what it left out, and tokenised once, with one BOS.

Training, PPO and the benchmarks all come through here, so that a model sees the same tokens in each of them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import TemplateError

from core.data.dates import note_date
from core.data.dialogues import template_input, turn_of
from core.data.template_check import Check, TemplateCheck
from core.progress import NoProgress, Progress
from core.records import Answer, Dialogue, Message, user

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

MAX_REPORTED = 5
"""Dialogues that an error lists with their reasons."""
MAX_NAMED = 20
"""Further ones that it names."""
AT_ONCE = 1024
"""Texts that are tokenised at a time: beside its ids a tokenizer keeps a text's tokens, masks and places, a hundred bytes per token."""


class UnreadableError(ValueError):
    """Dialogues that a chat template refuses, or of which it writes nothing sensible; `reasons` by their indices.

    `model` is the name of the model whose template it is, empty where the reader knows.
    """

    def __init__(self, reasons: Mapping[int, str], total: int, model: str = "") -> None:
        self.reasons = dict(reasons)
        self.total = total
        self.model = model
        super().__init__(self.listed({index: f"number {index + 1}" for index in reasons}, "dialogues"))

    def __reduce__(self) -> tuple[type["UnreadableError"], tuple[dict[int, str], int, str]]:
        return UnreadableError, (self.reasons, self.total, self.model)  # its arguments are the message

    def moved(self, by: int, total: int) -> "UnreadableError":
        """The error of `total` dialogues, of which those that it tells of begin at index `by`."""
        return UnreadableError({by + index: reason for index, reason in self.reasons.items()}, total, self.model)

    def listed(self, names: Sequence[str] | Mapping[int, str], what: str, remedy: str = "Fix or remove them, or mend the template.") -> str:
        """A message that names the first of them, by the names of the dialogues, with the reasons, and further ones by name."""
        ordered = sorted(self.reasons, key=lambda index: _natural(names[index]))
        shown = "\n  ".join(f"{names[index]}: {self.reasons[index]}" for index in ordered[:MAX_REPORTED])
        further = "; ".join(names[index] for index in ordered[MAX_REPORTED:][:MAX_NAMED])
        more = f"\n  and {len(ordered) - MAX_REPORTED} more: {further}" if further else ""
        template = f"the chat template of {self.model}" if self.model else "the model's chat template"
        return f"{len(self.reasons)} of {self.total} {what} cannot be written by {template}:\n  {shown}{more}\n{remedy}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """The token ids of some dialogues, and for each what the chat template left out of it.

    `types` are token types, 1 for the answer, where a tokenizer without a chat template has them for a pair of prompt and answer.
    """

    rows: list[list[int]]
    checks: list[Check]
    types: list[list[int]] | None = None

    @property
    def broken(self) -> dict[int, str]:
        """Why dialogues cannot be read, by index."""
        return {index: check.reason for index, check in enumerate(self.checks) if check.reason}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts row 9 before row 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def encode(tokenizer: "PreTrainedTokenizerBase", dialogues: Iterable[Dialogue], *, answered: bool, skip: bool = False) -> Encoded:
    """The dialogues as token ids: up to where the assistant's turn begins or, if `answered`, with all that the template puts at the end.

    Raises `UnreadableError` that names all dialogues that cannot be read; with `skip` these are empty rows.
    """
    if tokenizer.chat_template is None:
        found = _encode_pairs(tokenizer, [dialogue if answered else (*dialogue, turn_of("")) for dialogue in dialogues])
    else:
        found = _encode(tokenizer, dialogues, answered=answered)
    if not skip and (broken := found.broken):
        raise UnreadableError(broken, len(found.rows), tokenizer.name_or_path)
    return found


def encode_prompts(tokenizer: "PreTrainedTokenizerBase", dialogues: Iterable[Dialogue]) -> list[list[int]]:
    """Token ids of each prompt, up to where the assistant's turn begins."""
    return encode(tokenizer, dialogues, answered=False).rows


def at_once(texts: Sequence[T], what: str, progress: Progress | None) -> Iterator[tuple[int, Sequence[T]]]:
    """The texts in parts of a bounded size, each with the index of its first. Where there are several, `progress` is told of `what`."""
    told = progress if progress is not None and len(texts) > AT_ONCE else NoProgress()
    told.start(what, len(texts))
    try:
        for start in range(0, len(texts), AT_ONCE):
            part = texts[start : start + AT_ONCE]
            yield start, part
            told.advance(len(part))
    finally:
        told.finish()


def prompt_lengths(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Dialogue], progress: Progress | None = None) -> list[int]:
    """Number of tokens of each prompt, up to where the assistant's turn begins; the ids of few of them are in memory at a time.

    Raises `UnreadableError` as `encode`.
    """
    lengths: list[int] = []
    broken: dict[int, str] = {}
    for start, part in at_once(prompts, "counting the tokens of prompts", progress):
        found = encode(tokenizer, part, answered=False, skip=True)
        lengths += map(len, found.rows)
        broken |= {start + place: reason for place, reason in found.broken.items()}
    if broken:
        raise UnreadableError(broken, len(prompts), tokenizer.name_or_path)
    return lengths


def encode_answered(tokenizer: "PreTrainedTokenizerBase", dialogues: Iterable[Dialogue], completions: Iterable[Answer]) -> list[list[int]]:
    """Token ids of each dialogue with its completion as the last turn, including what the template puts after it."""
    pairs = zip(dialogues, completions, strict=True)
    return encode_dialogues(tokenizer, [(*dialogue, turn_of(answer)) for dialogue, answer in pairs])


def encode_dialogues(tokenizer: "PreTrainedTokenizerBase", dialogues: Iterable[Dialogue]) -> list[list[int]]:
    """Token ids of whole dialogues, whichever role has the last turn."""
    return encode(tokenizer, dialogues, answered=True).rows


def preamble(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens that the template puts before every single-turn prompt, such as BOS and a default system message."""
    if tokenizer.chat_template is None:
        return []
    try:
        texts = [render(tokenizer, user(text), generation=False) for text in ("0", "z")]
    except ValueError as error:
        raise ValueError(f"{tokenizer.name_or_path}: {error}") from error
    one, other = _tokenize(tokenizer, texts, ended=False)
    return one[: next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)]


def sample_renderings(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """What the template makes of short dialogues with every common role, as far as it takes them."""
    turns = {role: Message(role=role, content="a") for role in ("system", "user", "assistant")}
    asked, told = (turns["user"],), (turns["system"], turns["user"])
    texts: list[str] = []
    for dialogue in (asked, told, (*asked, turns["assistant"]), (*asked, turns["assistant"], *asked)):
        for generation in (True, False):
            with suppress(ValueError):
                texts.append(render(tokenizer, dialogue, generation=generation))
    return texts


def pad_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The id of the pad token, which `core.models.load.load_tokenizer` guarantees."""
    found = tokenizer.pad_token_id
    assert isinstance(found, int)
    return found


def render(tokenizer: "PreTrainedTokenizerBase", dialogue: Dialogue, *, generation: bool) -> str:
    """The text that the chat template makes of a dialogue. Raises `ValueError` with the reason if it refuses."""
    note_date(tokenizer)
    messages, beside = template_input(dialogue)
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation, **beside)
    except (TemplateError, TypeError, ValueError) as error:  # a template is a program, and may fail like one
        roles = ", ".join(turn.role for turn in dialogue)
        raise ValueError(f"the chat template refuses a dialogue of {roles} ({error})") from error
    assert isinstance(text, str)
    return text


def specials(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer by itself puts before and after a text, such as BOS, or [CLS] and [SEP]."""
    tried: Any = tokenizer("a", return_special_tokens_mask=True)
    ids, mask = tried["input_ids"], tried["special_tokens_mask"]
    before = next((place for place, special in enumerate(mask) if not special), len(ids))
    after = next((place for place, special in enumerate(reversed(mask)) if not special), 0)
    return ids[:before], ids[len(ids) - after :]


def _tokenize(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *, ended: bool) -> list[list[int]]:
    """The texts as token ids. A template may leave special tokens to the tokenizer, those at the end only of texts that are `ended`.

    There must be exactly one of each: a second BOS shifts scores by a point.
    """
    if not texts:
        return []
    rows: list[list[int]] = []
    for start in range(0, len(texts), AT_ONCE):
        found: Any = tokenizer(list(texts[start : start + AT_ONCE]), add_special_tokens=False, return_attention_mask=False)
        rows += found["input_ids"]
    before, after = specials(tokenizer)
    if before:
        rows = [row if row[: len(before)] == before else [*before, *row] for row in rows]
    if after and ended:
        rows = [row if row[-len(after) :] == after else [*row, *after] for row in rows]
    return rows


def _encode(tokenizer: "PreTrainedTokenizerBase", dialogues: Iterable[Dialogue], *, answered: bool) -> Encoded:
    check = TemplateCheck(lambda dialogue: render(tokenizer, dialogue, generation=not answered), answered=answered)
    texts: list[str] = []
    checks: list[Check] = []
    for dialogue in dialogues:
        try:
            text = render(tokenizer, dialogue, generation=not answered)
            found = check.of(dialogue, text)
        except ValueError as error:
            text, found = "", Check(reason=str(error))
        texts.append(text)
        checks.append(found)
    rows = _tokenize(tokenizer, texts, ended=answered)
    return Encoded(rows=[[] if check.reason else row for row, check in zip(rows, checks, strict=True)], checks=checks)


def _encode_pairs(tokenizer: "PreTrainedTokenizerBase", dialogues: Sequence[Dialogue]) -> Encoded:
    """Questions and answers as pairs of texts, which encoders trained without a chat template read."""
    reason = "the model has no chat template, so a prompt can only be one user turn"
    plain = [
        [turn.role for turn in dialogue] == ["user", "assistant"] and not any(turn.fields for turn in dialogue) for dialogue in dialogues
    ]
    readable = [dialogue for dialogue, is_plain in zip(dialogues, plain, strict=True) if is_plain]
    found: Any = tokenizer([asked.content for asked, _ in readable], [said.content for _, said in readable]) if readable else {}
    rows, types = iter(found.get("input_ids", [])), iter(found.get("token_type_ids", []))
    return Encoded(
        rows=[next(rows) if is_plain else [] for is_plain in plain],
        checks=[Check() if is_plain else Check(reason=reason) for is_plain in plain],
        # Only where the tokenizer gives them: RoBERTa's model would take them too, and was trained without.
        types=[next(types) if is_plain else [] for is_plain in plain] if "token_type_ids" in found else None,
    )
