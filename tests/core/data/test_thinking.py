"""Reasoning is not the answer, whoever opened it."""

import copy

import pytest
from transformers import PreTrainedTokenizerBase

from core.data.thinking import answer_of
from core.data.turn_ends import answer_texts


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is 4.", "It is 4."),
        ("<think>\n3?\n</think>\n\nIt is 4.", "It is 4."),
        ("3?\n</think>\n\nIt is 4.", "It is 4."),
        ("<think>3?", ""),
        ("<think>3?</think><think>4?</think>5", "5"),
        ("<think>3?</think>\nIt is 4.\n<think>or 5", "It is 4.\n"),
        ("<think></think>\n\n    return 4", "    return 4"),
        ("<thinking>3?</thinking>4", "4"),
        ("[THINK]3?[/THINK]4", "4"),
        ("Models write `<think>` first.", "Models write `<think>` first."),
        ("", ""),
    ],
)
def test_the_answer_is_what_follows_the_reasoning(text: str, answer: str) -> None:
    assert answer_of(text) == answer


@pytest.mark.parametrize(("ending", "begun"), [("<think>\n", "<think>\n"), ("<think>\n\n</think>\n\n", ""), ("", "")])
def test_reasoning_that_the_template_begins_belongs_to_the_text(tokenizer: PreTrainedTokenizerBase, ending: str, begun: str) -> None:
    own = copy.deepcopy(tokenizer)
    own.chat_template = str(own.chat_template) + f"{{% if add_generation_prompt %}}{{{{ {ending!r} }}}}{{% endif %}}"
    ids = own.encode("sum", add_special_tokens=False)
    (text,) = answer_texts(own, [ids], frozenset())
    drawn = str(own.decode(ids))
    assert text == begun + drawn
    assert answer_of(text) == ("" if begun else drawn)  # cut before it came to an answer
