"""What a chat template leaves out of a dialogue is named; a dialogue of which nothing sensible is left is refused."""

import copy
import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from core.data.chat import UnreadableError, encode, encode_answered, encode_prompts
from core.data.dialogues import parse_dialogue, with_columns
from core.data.token_rows import require_readable, token_rows
from core.records import Dialogue, Message, user
from tests.core.data.templates import CHATML, ESCAPING, GEMMA, LLAMA2, QWEN, R1, ZEPHYR

SYSTEM = (Message(role="system", content="Be short."), *user("Name a fruit."))
DEVELOPER = (Message(role="developer", content="Be short."), *user("Name a fruit."))
PLUM = Message(role="assistant", content="A plum.")
THOUGHT = Message(role="assistant", content="<think>\nFruit, fruit.\n</think>\n\nA plum.")
CALL = {"type": "function", "function": {"name": "shop", "arguments": {"item": "plum"}}}
TOOL = {"type": "function", "function": {"name": "shop", "description": "Buys fruit.", "parameters": {}}}


def with_template(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    return own


def lost(tokenizer: PreTrainedTokenizerFast, template: str, *dialogue: Message, answered: bool = True) -> tuple[str, ...]:
    encoded = encode(with_template(tokenizer, template), [dialogue], answered=answered, skip=True)
    assert not encoded.broken
    return encoded.checks[0].lost


def reason(tokenizer: PreTrainedTokenizerFast, template: str, *dialogue: Message, answered: bool = True) -> str:
    with pytest.raises(UnreadableError) as caught:
        encode(with_template(tokenizer, template), [dialogue], answered=answered)
    return caught.value.reasons[0]


@pytest.mark.parametrize("template", [CHATML, QWEN, LLAMA2, ZEPHYR, ESCAPING])
def test_nothing_is_lost_of_plain_dialogues(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    odd = Message(role="assistant", content='  He said: "A plum."\n\nSo —\tyes.  ')
    for dialogue in (
        (*SYSTEM, PLUM),
        (*user("Name a fruit."), PLUM, *user("Another?"), odd),
        (*user(" a "), Message(role="assistant", content="")),
    ):
        assert lost(tokenizer, template, *dialogue) == ()
        assert lost(tokenizer, template, *dialogue[:-1], answered=False) == ()


def test_reasoning_of_earlier_answers_is_dropped_on_purpose(tokenizer: PreTrainedTokenizerFast) -> None:
    assert lost(tokenizer, QWEN, *user("Name a fruit."), THOUGHT, *user("Another?"), PLUM) == ()
    assert lost(tokenizer, QWEN, *user("Name a fruit."), THOUGHT) == ()
    assert lost(tokenizer, R1, *user("Name a fruit."), THOUGHT, *user("Another?"), PLUM) == ()
    assert lost(tokenizer, R1, *user("Name a fruit."), THOUGHT) == ("the reasoning in the answer",)


def test_a_turn_that_the_template_has_no_branch_for_is_named_even_if_its_words_stand_elsewhere(tokenizer: PreTrainedTokenizerFast) -> None:
    assert lost(tokenizer, R1, *SYSTEM, PLUM) == ("the system turn",)
    assert lost(tokenizer, ZEPHYR, *DEVELOPER, PLUM) == ("the developer turn",)
    assert lost(tokenizer, R1, Message(role="system", content="fruit"), *user("Name a fruit."), PLUM) == ("the system turn",)
    assert lost(tokenizer, ZEPHYR, *DEVELOPER, answered=False) == ("the developer turn",)


def test_what_is_refused_is_refused_with_the_templates_own_words(tokenizer: PreTrainedTokenizerFast) -> None:
    refusal = "the chat template refuses a dialogue of system, user, assistant (System role not supported)"
    assert reason(tokenizer, GEMMA, *SYSTEM, PLUM) == refusal
    assert "roles must alternate" in reason(tokenizer, GEMMA, *user("a"), *user("b"), PLUM)
    assert "can only concatenate" in reason(tokenizer, "{{ messages[0].content + 1 }}", *user("a"), answered=False)


def test_a_dialogue_is_refused_if_the_question_or_the_answer_is_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    deaf = "{% for m in messages if m.role != 'user' %}{{ m.content }}{% endfor %}"
    mute = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}"
    assert reason(tokenizer, deaf, *user("a"), PLUM) == "the chat template leaves out what was asked"
    assert reason(tokenizer, mute, *user("a"), PLUM) == "the chat template leaves out the answer"
    early = "{% for m in messages[:2] %}{{ m.role }} {{ m.content }} {% endfor %}"
    assert reason(tokenizer, early, *user("a"), PLUM, *user("b"), PLUM) == "the chat template leaves out the answer"
    assert reason(tokenizer, early, *user("a"), PLUM, *user("b"), answered=False) == "the chat template leaves out what was asked"
    late = "{% for m in messages[-2:] %}{{ m.role }} {{ m.content | lower }} {% endfor %}"
    assert lost(tokenizer, late, *user("First."), Message(role="assistant", content="Yes."), *user("B"), PLUM) == (
        "the user turn",
        "the assistant turn",
    )
    assert encode_prompts(with_template(tokenizer, mute), [user("a")]) != [[]]


def called(content: str, *calls: Any) -> Message:
    (turn,) = parse_dialogue([{"role": "assistant", "content": content, "tool_calls": list(calls)}], "row 1")
    return turn


def test_tools_and_tool_calls_are_handed_to_the_template(tokenizer: PreTrainedTokenizerFast) -> None:
    own = with_template(tokenizer, QWEN)
    prompt = with_columns({"tools": json.dumps([TOOL])}, SYSTEM)
    answer, other = called("", CALL), called("", {"type": "function", "function": {"name": "shop", "arguments": {"item": "lamp"}}})
    turns: list[Any] = [{"role": turn.role, "content": turn.content} for turn in SYSTEM]
    turns.append({"role": "assistant", "content": "", "tool_calls": [CALL]})
    expected = own.apply_chat_template(turns, tools=[TOOL], tokenize=False)
    assert '{"name": "shop", "arguments": {"item": "plum"}}' in str(expected)
    rows = encode_answered(own, [prompt] * 2, [answer, other])
    assert own.decode(rows[0]) == own.decode(own(str(expected), add_special_tokens=False).input_ids)
    assert rows[0] != rows[1]
    assert lost(tokenizer, QWEN, *prompt, answer) == ()


def test_keys_that_the_template_does_not_read_are_named(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = with_columns({"tools": [TOOL]}, SYSTEM)
    assert lost(tokenizer, CHATML, *prompt, called("I buy it.", CALL)) == ("tools", "tool_calls")
    result = parse_dialogue([{"role": "tool", "content": "Bought.", "tool_call_id": "7"}], "row 1")
    assert lost(tokenizer, QWEN, *prompt, called("", CALL), *result, PLUM) == ("tool_call_id",)
    reasoned = parse_dialogue([{"role": "assistant", "content": "A plum.", "reasoning_content": "Fruit, fruit."}], "row 1")
    assert lost(tokenizer, QWEN, *user("a"), *reasoned) == ()
    assert lost(tokenizer, QWEN, *user("a"), *reasoned, *user("b"), PLUM) == ()  # on purpose
    assert lost(tokenizer, CHATML, *user("a"), *reasoned) == ("reasoning_content",)


def test_an_answer_of_tool_calls_alone_is_refused_where_the_template_writes_none(tokenizer: PreTrainedTokenizerFast) -> None:
    assert reason(tokenizer, CHATML, *user("a"), called("", CALL)) == "the chat template writes nothing of the answer, which is tool_calls"


def test_all_dialogues_that_cannot_be_read_are_listed(tokenizer: PreTrainedTokenizerFast) -> None:
    own = with_template(tokenizer, GEMMA)
    with pytest.raises(UnreadableError, match=r"2 of 3 dialogues cannot be written by .*:\n  number 1: .*\n  number 3: "):
        encode_prompts(own, [SYSTEM, user("a"), SYSTEM])
    error = UnreadableError(dict.fromkeys(range(8), "no"), 8)
    listed = error.listed([f"a.jsonl, row {number}" for number in (11, 2, 1, 3, 10, 4, 5, 6)], "rows", "Mend.").split("\n")
    assert [line.strip() for line in listed[1:6]] == [f"a.jsonl, row {number}: no" for number in range(1, 6)]
    assert listed[6:] == ["  and 3 more: a.jsonl, row 6; a.jsonl, row 10; a.jsonl, row 11", "Mend."]
    with pytest.raises(UnreadableError) as caught:  # by prompt, whatever the number of their completions
        token_rows(own, [user("a"), SYSTEM], [["x", "y"], ["z"]], 100)
    assert list(caught.value.reasons) == [1]


def test_prompts_are_tried_before_work_starts(tokenizer: PreTrainedTokenizerFast) -> None:
    said: list[str] = []
    prompts: dict[str, Dialogue] = {"p-1": user("a"), "p-2": SYSTEM, "p-3": SYSTEM}
    with pytest.raises(ValueError, match=r"the policy: 2 of 3 prompts cannot be written by .*:\n  p-2: .*not supported"):
        require_readable(with_template(tokenizer, GEMMA), prompts, "the policy")
    require_readable(with_template(tokenizer, R1), prompts, "the policy", say=said.append)
    assert said == ["the chat template leaves out the system turn of 2 of 3 prompts (the policy)"]


def test_a_system_column_begins_the_dialogue(tokenizer: PreTrainedTokenizerFast) -> None:
    assert with_columns({"system": "Be short."}, user("Name a fruit.")) == SYSTEM
    assert with_columns({"system": "Be short. "}, SYSTEM) == SYSTEM
    assert with_columns({"system": "", "tools": None}, user("a")) == user("a")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"system": "Be long."}, "begins with the system turn 'Be short.'"),
        ({"system": 5}, "system is 5, not text"),
        ({"tools": "x"}, "neither a list nor JSON"),
    ],
)
def test_a_column_that_contradicts_the_dialogue_or_has_another_form_breaks_the_row(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_columns(row, SYSTEM)


class Name(str):
    """A name that counts how often any of its kind is hashed."""

    __slots__ = ()
    num_hashed = 0

    def __hash__(self) -> int:
        Name.num_hashed += 1
        return super().__hash__()


def test_very_many_prompts_are_looked_through_once(tokenizer: PreTrainedTokenizerFast) -> None:
    require_readable(tokenizer, {Name(number): user("a") for number in range(300)}, "the policy")
    assert Name.num_hashed < 10 * 300  # and not 300 times 300
