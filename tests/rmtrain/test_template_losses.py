"""Pairs that the chat template makes equal or cannot write are counted and left out, or stop the run before it begins."""

import copy
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from core.records import Message, Preference, user
from rmtrain.config import Overlong
from rmtrain.tokens import TokenPairs, comparable, tokenize
from tests.core.data.templates import GEMMA, R1, ZEPHYR

FRUIT = Preference(prompt=user("Name a fruit."), chosen="A plum.", rejected="A lamp.")
THOUGHTS = Preference(prompt=user("Name a fruit."), chosen="<think>a</think>A plum.", rejected="<think>b</think>A plum.")
BLANKS = Preference(prompt=user("Name a fruit."), chosen="A plum.", rejected="A plum. \n")
SYSTEM = (Message(role="system", content="Be short."), *user("Name a fruit."))
TOLD = Preference(prompt=SYSTEM, chosen="A plum.", rejected="A lamp.", where="pairs.jsonl, row 2")


def tokens(tokenizer: PreTrainedTokenizerFast, template: str, *pairs: Preference, **options: Any) -> TokenPairs:
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return tokenize(pairs, own, max_length=200, overlong=Overlong.drop, **options)


def test_pairs_that_the_template_makes_equal_are_dropped_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    found = tokens(tokenizer, R1, FRUIT, THOUGHTS, FRUIT, THOUGHTS)
    assert (len(found.pairs), found.num_equal, found.num_dropped) == (2, 2, 0)
    assert found.lost == {"the reasoning in the answer": 2}
    found = tokens(tokenizer, GEMMA, FRUIT, BLANKS)
    assert (len(found.pairs), found.num_equal) == (1, 1)
    assert tokens(tokenizer, ZEPHYR, FRUIT, BLANKS, THOUGHTS).num_equal == 0  # it writes them as they are


@pytest.mark.parametrize(("template", "pair"), [(R1, THOUGHTS), (GEMMA, BLANKS)])
def test_a_run_with_equal_pairs_alone_is_refused(tokenizer: PreTrainedTokenizerFast, template: str, pair: Preference) -> None:
    with pytest.raises(ValueError, match="chosen and rejected are the same tokens in 3 of 3 pairs, which leaves none to train on"):
        tokens(tokenizer, template, pair, pair, pair)


def test_pairs_that_differ_in_trailing_pad_tokens_alone_are_equal(tokenizer: PreTrainedTokenizerFast) -> None:
    open_ended = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    padded = Preference(prompt=user("Name a fruit."), chosen="A plum.", rejected=f"A plum.{tokenizer.pad_token}")
    assert tokens(tokenizer, open_ended, FRUIT, padded).num_equal == 1


def test_rows_that_the_template_refuses_are_named_and_left_out_on_request(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"(?s)1 of 2 pairs cannot .*pairs\.jsonl, row 2: .*System role not supported.*skip_broken=true"):
        tokens(tokenizer, GEMMA, FRUIT, TOLD)
    found = tokens(tokenizer, GEMMA, FRUIT, TOLD, skip_broken=True)
    assert (len(found.pairs), list(found.broken)) == (1, [1])
    with pytest.raises(ValueError, match=r"Fix or remove these rows\.$"):
        tokens(tokenizer, GEMMA, TOLD, skip_broken=True)


def test_a_turn_that_the_template_leaves_out_is_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokens(tokenizer, R1, FRUIT, TOLD, TOLD).lost == {"the system turn": 2}


def test_held_out_pairs_are_sifted_alike(tokenizer: PreTrainedTokenizerFast) -> None:
    own, said = copy.deepcopy(tokenizer), list[str]()
    own.chat_template = GEMMA
    assert comparable([FRUIT, BLANKS, TOLD], own, skip_broken=True, say=said.append) == [FRUIT]
    assert [line.split("\n")[0] for line in said] == [
        "held out: 1 of 3 pairs cannot be written by the model's chat template:",
        "held out: left out 1 of 3 pairs whose chosen and rejected are the same tokens",
    ]
    with pytest.raises(ValueError, match=r"(?s)held out: 1 of 3 pairs .*row 2"):
        comparable([FRUIT, BLANKS, TOLD], own, skip_broken=False)
