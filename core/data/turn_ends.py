"""What ends an answer: the tokens at which sampling stops, whatever samples, and the answer's text without them."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from jinja2 import TemplateError

from core.data.thinking import prefilled

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

_ANSWER, _NEXT = "Rewardloop7", "Rewardloop8"
"""Contents of an answer and of the turn after it, found again in what the template renders."""


def turn_ends(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """The ids that end an answer of `model`: those of its generation config, the tokenizer's EOS, and the template's end of turn.

    They often differ: Llama 3 ends a turn with `<|eot_id|>`, and its EOS is `<|end_of_text|>`. Raises `ValueError` if there is none.
    """
    config = cast("GenerationConfig | None", model.generation_config)  # None for a model that cannot generate
    declared = config.eos_token_id if config is not None else None
    own = declared if isinstance(declared, list) else [declared]
    found = frozenset(id for id in (*own, tokenizer.eos_token_id, template_end(tokenizer)) if isinstance(id, int))
    if not found:
        raise ValueError(
            f"{model.name_or_path or type(model).__name__} names no token that ends an answer, so that all would run to the "
            "token limit; set eos_token_id in its generation_config.json, or eos_token in its tokenizer_config.json."
        )
    return found


def template_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The first token after an answer that is not ordinary text, as the chat template writes it; None if there is none.

    A template that writes nothing after the last answer may yet begin the next turn with such a token, as GLM 4's does.
    """
    asked = {"role": "user", "content": _NEXT}
    answered = [asked, {"role": "assistant", "content": _ANSWER}]
    for dialogue in (answered, [*answered, asked]):
        try:
            text = tokenizer.apply_chat_template(dialogue, tokenize=False)
        except TemplateError:  # it asks for more than these turns
            continue
        assert isinstance(text, str)
        _, answer, after = text.rpartition(_ANSWER)
        end = _first_marker(tokenizer, after.partition(_NEXT)[0]) if answer else None
        if end is not None:
            return end
    return None


def answer_texts(tokenizer: "PreTrainedTokenizerBase", rows: Sequence[Sequence[int]], ends: frozenset[int]) -> list[str]:
    """The texts of sampled answers without the token that ended them, which the template writes again when they are scored.

    That token is removed by its id: some tokenizers do not list theirs as special. The beginning of reasoning that a template writes for
    the model belongs to the text, or whoever reads it could not tell reasoning from answer.
    """
    begun = prefilled(tokenizer)
    texts = tokenizer.batch_decode([list(row[:-1] if row and row[-1] in ends else row) for row in rows], skip_special_tokens=True)
    return [f"{begun}{text}" for text in texts]


def _first_marker(tokenizer: "PreTrainedTokenizerBase", text: str) -> int | None:
    """The id of the first added token in `text`, leaving out a BOS, which begins a text and ends none."""
    ids = {str(token): id for id, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    if tokenizer.bos_token_id != tokenizer.eos_token_id:
        ids.pop(str(tokenizer.bos_token), None)
    pattern = "|".join(re.escape(token) for token in sorted(ids, key=len, reverse=True))
    found = re.search(pattern, text) if pattern else None
    return ids[found.group()] if found else None
