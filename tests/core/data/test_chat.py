"""A dialogue becomes the same token ids everywhere: rendered by the template, tokenised once, with one BOS."""

import copy
import io
import pickle
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from core.data.chat import UnreadableError, encode_answered, encode_prompts, preamble, prompt_lengths
from core.data.dialogues import parse_dialogue
from core.data.token_rows import require_readable
from core.progress import LineProgress
from core.records import Message, user
from tests.fakes import word_tokenizer

SYSTEM_TURN = (Message(role="system", content="short"), *user("name a fruit"))

# The ids of tests.fakes.WORDS: <s> 0, </s> 1, [system] 3, [user] 4, [assistant] 5, name 6, a 7, fruit 8, plum 9, short 11.
PROMPT_IDS = [4, 6, 7, 8, 5]
ANSWERED_IDS = [4, 6, 7, 8, 5, 7, 9, 1]


def test_a_prompt_ends_where_the_assistant_begins_to_speak() -> None:
    assert encode_prompts(word_tokenizer(), [user("name a fruit")]) == [[0, *PROMPT_IDS]]


def test_an_answered_dialogue_ends_as_the_template_ends_it() -> None:
    assert encode_answered(word_tokenizer(), [user("name a fruit")], ["a plum"]) == [[0, *ANSWERED_IDS]]


def test_every_turn_is_rendered_in_order_with_its_role() -> None:
    assert encode_prompts(word_tokenizer(), [SYSTEM_TURN]) == [[0, 3, 11, *PROMPT_IDS]]


def test_an_answered_dialogue_begins_with_the_ids_of_its_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    dialogues = [user("Name a fruit."), SYSTEM_TURN]
    answered = encode_answered(tokenizer, dialogues, ["A plum.", "5"])
    for prompt, row in zip(encode_prompts(tokenizer, dialogues), answered, strict=True):
        assert row[: len(prompt)] == prompt
        assert row[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(("template_bos", "adds_bos"), [(True, False), (False, True), (True, True)])
def test_there_is_one_bos_whether_the_template_or_the_tokenizer_or_both_write_it(template_bos: bool, adds_bos: bool) -> None:
    tokenizer = word_tokenizer(template_bos=template_bos, adds_bos=adds_bos)
    assert encode_prompts(tokenizer, [user("name a fruit")]) == [[0, *PROMPT_IDS]]
    assert encode_answered(tokenizer, [user("name a fruit")], ["a plum"]) == [[0, *ANSWERED_IDS]]


@pytest.mark.parametrize("bos", [True, False])
def test_no_bos_is_added_where_neither_the_template_nor_the_tokenizer_writes_one(bos: bool) -> None:
    tokenizer = word_tokenizer(template_bos=False, adds_bos=False, bos=bos)
    assert encode_prompts(tokenizer, [user("name a fruit")]) == [PROMPT_IDS]


def test_lengths_are_those_of_the_rows_and_an_unreadable_prompt_is_named_by_its_place_in_the_whole(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.chat.AT_ONCE", 2)
    prompts = [user("Name " + "a short " * repeats + "fruit.") for repeats in (3, 0, 2, 1, 5)]
    assert prompt_lengths(tokenizer, prompts) == [len(row) for row in encode_prompts(tokenizer, prompts)]
    assert prompt_lengths(tokenizer, []) == []
    refusing = copy.deepcopy(tokenizer)
    refusing.chat_template = "{% if '5' in messages[0].content %}{{ raise_exception('no') }}{% endif %}" + str(tokenizer.chat_template)
    with pytest.raises(UnreadableError, match=r"1 of 5 dialogues .*\n  number 4: .*no") as refused:
        prompt_lengths(refusing, [*prompts[:3], user("5"), user("6")])
    again = pickle.loads(pickle.dumps(refused.value))
    assert (str(again), again.reasons) == (str(refused.value), refused.value.reasons)


def test_counting_and_trying_very_many_prompts_is_told_and_few_say_nothing(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.chat.AT_ONCE", 2)
    log, minutes = io.StringIO(), iter(range(0, 6000, 60))
    progress = LineProgress(log, clock=lambda: float(next(minutes)))
    prompts = [(Message(role="system", content="short"), *user(f"Name {number}.")) for number in range(5)]
    prompt_lengths(tokenizer, prompts, progress)
    require_readable(tokenizer, dict(zip("abcde", prompts, strict=True)), "the policy", progress=progress)
    counted, tried = "counting the tokens of prompts", "trying the chat template on prompts (the policy)"
    told = [line.split(",")[0] for line in log.getvalue().splitlines()]
    shares = ["2/5 (40%)", "4/5 (80%)", "5/5 (100%)", "5/5 in 240.0 s"]
    assert told == [f"{what}: {share}" for what in (counted, tried) for share in shares]
    prompt_lengths(tokenizer, prompts[:2], progress)
    assert len(log.getvalue().splitlines()) == len(told)


def test_no_dialogues_give_no_rows() -> None:
    assert encode_prompts(word_tokenizer(), []) == []


def test_a_completion_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        encode_answered(word_tokenizer(), [user("name a fruit"), user("a")], ["a plum"])


def test_text_is_one_user_turn_and_messages_keep_their_roles() -> None:
    assert parse_dialogue("name a fruit", "prompt") == (Message(role="user", content="name a fruit"),)
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": "name a fruit"}]
    assert parse_dialogue(messages, "prompt") == SYSTEM_TURN


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "row 3: expected text or a non-empty list of messages, got NoneType"),
        ([], "row 3: expected text or a non-empty list of messages, got list"),
        ([{"role": "user"}], "row 3: every message needs a 'role' and a 'content' that are text"),
        ([{"role": "user", "content": 5}], "row 3: every message needs a 'role' and a 'content' that are text"),
        (["name a fruit"], "row 3: every message needs a 'role' and a 'content' that are text"),
    ],
)
def test_what_is_no_dialogue_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_dialogue(value, "row 3")


def test_the_preamble_is_what_every_single_turn_prompt_begins_with(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens(preamble(tokenizer)) == ["<|begin|>", "<|user|>"]
    rows = encode_prompts(tokenizer, [user("Name a fruit."), user("0 plums"), user("zest")])
    assert all(row[:2] == preamble(tokenizer) for row in rows)


def test_a_system_message_that_the_template_writes_by_itself_is_part_of_the_preamble(tokenizer: PreTrainedTokenizerFast) -> None:
    told = copy.deepcopy(tokenizer)
    told.chat_template = "{{ bos_token }}<|system|>Answer in one short sentence." + str(tokenizer.chat_template).removeprefix(
        "{{ bos_token }}"
    )
    expected = "<|begin|><|system|>Answer in one short sentence.<|user|>"
    assert preamble(told) == tokenizer(expected, add_special_tokens=False).input_ids


def test_a_bos_that_the_tokenizer_adds_is_part_of_the_preamble() -> None:
    # <s> [user], whether the template, the tokenizer or both write the <s>
    template = "{% for m in messages %}[{{ m.role }}] {{ 'a' if m.content == '0' else 'plum' }} {% endfor %}"
    for adds_bos, before in ((True, [0]), (False, [])):
        words = word_tokenizer(template_bos=False, adds_bos=adds_bos)
        words.chat_template = template
        assert preamble(words) == [*before, 4]


def test_there_is_no_preamble_where_prompts_cannot_be_told_apart_or_begin_with_their_words() -> None:
    assert preamble(word_tokenizer()) == []  # both of its trial prompts are a word that this tokenizer does not know
    words = word_tokenizer(template_bos=False)
    words.chat_template = "{% for m in messages %}{{ 'a' if m.content == '0' else 'plum' }} {% endfor %}"
    assert preamble(words) == []
