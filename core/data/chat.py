"""From dialogues to token ids: rendered by the chat template and tokenised once, with one BOS.

Training, PPO and the benchmarks all come through here, so that a model sees the same tokens in each of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from core.records import Dialogue, Message, user

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def parse_dialogue(value: object, where: str) -> Dialogue:
    """The dialogue in a string (one user turn) or a list of `{"role", "content"}`; `where` names the row in errors."""
    if isinstance(value, str):
        return user(value)
    if not isinstance(value, Sequence) or not value:
        raise ValueError(f"{where}: expected text or a non-empty list of messages, got {type(value).__name__}.")
    for turn in value:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str):
            raise ValueError(f"{where}: every message needs a 'role' and a 'content' that are text, got {turn!r:.120}.")
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in value)


def encode_prompts(tokenizer: "PreTrainedTokenizerBase", dialogues: Iterable[Dialogue]) -> list[list[int]]:
    """Token ids of each prompt, up to where the assistant's turn begins."""
    return _tokenize(tokenizer, [_render(tokenizer, dialogue, generation=True) for dialogue in dialogues])


def encode_answered(tokenizer: "PreTrainedTokenizerBase", dialogues: Iterable[Dialogue], completions: Iterable[str]) -> list[list[int]]:
    """Token ids of each dialogue with its completion as the last turn, including what the template puts after it."""
    pairs = zip(dialogues, completions, strict=True)
    return encode_dialogues(tokenizer, [(*dialogue, Message(role="assistant", content=text)) for dialogue, text in pairs])


def encode_dialogues(tokenizer: "PreTrainedTokenizerBase", dialogues: Iterable[Dialogue]) -> list[list[int]]:
    """Token ids of whole dialogues, whichever role has the last turn."""
    return _tokenize(tokenizer, [_render(tokenizer, dialogue, generation=False) for dialogue in dialogues])


def preamble(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens that the template puts before every single-turn prompt, such as BOS and a default system message."""
    one, other = encode_dialogues(tokenizer, [user("0"), user("z")])
    return one[: next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)]


def sample_renderings(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """What the template makes of short dialogues with every common role, as far as it takes them."""
    turns = {role: Message(role=role, content="a") for role in ("system", "user", "assistant")}
    asked, told = (turns["user"],), (turns["system"], turns["user"])
    texts: list[str] = []
    for dialogue in (asked, told, (*asked, turns["assistant"]), (*asked, turns["assistant"], *asked)):
        for generation in (True, False):
            with suppress(ValueError):
                texts.append(_render(tokenizer, dialogue, generation=generation))
    return texts


def pad_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The id of the pad token, which `core.models.load.load_tokenizer` guarantees."""
    found = tokenizer.pad_token_id
    assert isinstance(found, int)
    return found


def _render(tokenizer: "PreTrainedTokenizerBase", dialogue: Dialogue, *, generation: bool) -> str:
    messages = [{"role": turn.role, "content": turn.content} for turn in dialogue]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    except TemplateError as error:
        roles = ", ".join(turn.role for turn in dialogue)
        raise ValueError(f"the chat template refuses a dialogue of {roles} ({error}); mend the data or the template.") from error
    assert isinstance(text, str)
    return text


def _tokenize(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    ids: Any = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    bos = tokenizer.bos_token_id
    # A template may leave BOS to the tokenizer. There must be exactly one: a second BOS shifts scores by a point.
    if bos is not None and tokenizer("a")["input_ids"][:1] == [bos]:
        ids = [row if row[:1] == [bos] else [bos, *row] for row in ids]
    return ids
