"""Reasoning: what a model writes in `<think>...</think>` before it answers, and how to tell the answer."""

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from jinja2 import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TAGS = ("think", "thinking", "THINK")
_END = re.compile(r"</think(?:ing)?>|\[/THINK\]")
_BEGIN = re.compile(r"^[ \t]*(?:<think(?:ing)?>|\[THINK\])", re.MULTILINE)
_PREFILL = re.compile(r"(?:<think(?:ing)?>|\[THINK\])\s*\Z")


def answer_of(text: str) -> str:
    """A completion without its reasoning: what stands after the last end of it; nothing of what it ends inside of.

    >>> answer_of("<think>3 or 4?</think>\\n\\nIt is 4."), answer_of("<think>3 or 4?"), answer_of("It is 4.")
    ('It is 4.', '', 'It is 4.')
    """
    ends = [*_END.finditer(text)]
    answer = text[ends[-1].end() :].lstrip("\r\n") if ends else text
    begin = _BEGIN.search(answer)
    return answer[: begin.start()] if begin else answer


def prefilled(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The beginning of reasoning that the chat template writes for the model, such as `<think>\\n`; empty for most templates."""
    template = tokenizer.chat_template
    return _prefilled(tokenizer, template) if isinstance(template, str) and any(tag in template for tag in _TAGS) else ""


@lru_cache(maxsize=16)
def _prefilled(tokenizer: "PreTrainedTokenizerBase", template: str) -> str:
    """`template` is the tokenizer's own: another one may be set on it later."""
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": "0"}], tokenize=False, add_generation_prompt=True)
    except TemplateError:  # it asks for more than this turn
        return ""
    assert isinstance(text, str)
    found = _PREFILL.search(text)
    return found[0] if found else ""
