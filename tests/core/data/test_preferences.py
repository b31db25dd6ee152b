"""A preference pair is parsed from a row in any of the forms such data comes in, and a row without one is refused with the reason."""

from typing import Any

import pytest

from core.data.preferences import parse_preference
from core.records import Message, Preference, user
from tests.core.data.pairs import ASKED, BEGINNING, BEGUN, PLUM, PLUM_PAIR, dialogue, turn

# The columns of the datasets on the hub, as they are called there; what a trainer of reward models reads of them is text and roles.
TULU = {"id": "x-1", "source": "ultrafeedback_cleaned_olmo2_7b", "prompt": "Name a fruit.", "chosen_model": "a", "rejected_model": "b"}


def parse(row: Any) -> Preference:
    return parse_preference(row, source="pairs")


def test_a_row_may_name_its_own_source_and_margin() -> None:
    pair = parse({**PLUM, "source": "fruits", "margin": 2})
    assert (pair.source, pair.margin) == ("fruits", 2.0)


@pytest.mark.parametrize(
    "answer",
    [lambda text: text, lambda text: [turn("assistant", text)], lambda text: [turn("user", "Name a fruit."), turn("assistant", text)]],
    ids=["text", "one message", "the whole dialogue again"],
)
@pytest.mark.parametrize("prompt", ["Name a fruit.", [turn("user", "Name a fruit.")]], ids=["text", "messages"])
def test_prompt_and_answers_may_each_be_text_or_messages(prompt: Any, answer: Any) -> None:
    row = {"prompt": prompt, "chosen": answer("A plum."), "rejected": answer("A lamp.")}
    assert parse(row) == PLUM_PAIR


def test_without_a_prompt_it_is_what_the_two_dialogues_begin_with() -> None:
    beginning = [turn("system", "Be short."), turn("user", "Hello."), turn("assistant", "Hi."), turn("user", "Name a fruit.")]
    row = {"chosen": [*beginning, turn("assistant", "A plum.")], "rejected": [*beginning, turn("assistant", "A lamp.")]}
    prompt = tuple(Message(role=message["role"], content=message["content"]) for message in beginning)
    assert parse(row) == Preference(prompt=prompt, chosen="A plum.", rejected="A lamp.", source="pairs")


def test_a_system_turn_of_the_prompt_is_kept() -> None:
    pair = parse({**PLUM, "prompt": [turn("system", "Be short."), turn("user", "Name a fruit.")]})
    assert pair.prompt == (Message(role="system", content="Be short."), Message(role="user", content="Name a fruit."))


def test_a_transcript_of_hh_is_split_into_its_turns() -> None:
    beginning = "\n\nHuman: Hello.\n\nAssistant: Hi.\n\nWhat now?\n\nHuman: Name a fruit.\n\nAssistant:"
    pair = parse({"chosen": f"{beginning} A plum.", "rejected": f"{beginning} A lamp."})
    assert pair.prompt == (
        Message(role="user", content="Hello."),
        Message(role="assistant", content="Hi.\n\nWhat now?"),
        Message(role="user", content="Name a fruit."),
    )
    assert (pair.chosen, pair.rejected) == ("A plum.", "A lamp.")


def test_an_assistant_that_speaks_twice_in_a_transcript_gives_one_turn() -> None:
    beginning = "\n\nHuman: Hello.\n\nAssistant:\n\nAssistant: Hi.\n\nAssistant: You?\n\nHuman: Name a fruit.\n\nAssistant:"
    pair = parse({"chosen": f"{beginning} A plum.\n\nAssistant: A pear.", "rejected": f"{beginning} A lamp."})
    assert [(message.role, message.content) for message in pair.prompt] == [
        ("user", "Hello."),
        ("assistant", "Hi.\n\nYou?"),
        ("user", "Name a fruit."),
    ]
    assert (pair.chosen, pair.rejected) == ("A plum.\n\nA pear.", "A lamp.")


def test_an_empty_answer_in_a_transcript_is_an_answer() -> None:
    pair = parse({"chosen": "\n\nHuman: Swear.\n\nAssistant: ", "rejected": "\n\nHuman: Swear.\n\nAssistant: Damn."})
    assert (pair.chosen, pair.rejected) == ("", "Damn.")


def test_tulu_3s_preference_mix_is_read() -> None:
    row = TULU | {"chosen": dialogue("A plum.", ASKED), "rejected": dialogue("A lamp.", ASKED)}
    pair = parse(row)
    assert pair == Preference(prompt=user("Name a fruit."), chosen="A plum.", rejected="A lamp.", source="ultrafeedback_cleaned_olmo2_7b")


@pytest.mark.parametrize("asked", ["Hello.", "Name a fruit.", " Name a fruit.\n"])
def test_a_prompt_that_is_one_user_turn_of_two_whole_dialogues_gives_way_to_all_turns_before_the_last(asked: str) -> None:
    row = TULU | {"prompt": asked, "chosen": dialogue("A plum."), "rejected": dialogue("A lamp.")}
    pair = parse(row)
    assert (pair.prompt, pair.chosen, pair.rejected) == (BEGUN, "A plum.", "A lamp.")


@pytest.mark.parametrize("asked", ["Hi.", "Be short.", "Name a"])
def test_a_prompt_that_is_no_user_turn_of_the_dialogues_breaks_the_row(asked: str) -> None:
    row = TULU | {"prompt": asked, "chosen": dialogue("A plum."), "rejected": dialogue("A lamp.")}
    with pytest.raises(ValueError, match=f"prompt is none of the user turns of chosen and rejected: '{asked}'"):
        parse(row)


@pytest.mark.parametrize("prompt", ["Hello.", None])
def test_dialogues_that_part_before_their_last_turn_break_the_row_at_the_turn_that_is_named(prompt: str | None) -> None:
    other = [*BEGINNING[:2], ("assistant", "Hi there."), BEGINNING[3]]
    row = {"prompt": prompt, "chosen": dialogue("A plum."), "rejected": dialogue("A lamp.", other)}
    with pytest.raises(ValueError, match="must be dialogues that differ in their last turn alone; they part at turn 3 of 5 and 5"):
        parse(row)


def test_of_dialogues_of_two_lengths_that_agree_the_end_of_the_shorter_is_named() -> None:
    longer = (*ASKED, ("assistant", "A plum."), ("user", "And one more?"))
    row = {"chosen": dialogue("A plum.", ASKED), "rejected": dialogue("A lamp.", longer)}
    with pytest.raises(ValueError, match="they part at turn 2 of 2 and 4"):
        parse(row)


def test_messages_as_a_prompt_must_be_those_of_the_dialogues_to_the_last() -> None:
    row = {"prompt": [turn("user", "Hello.")], "chosen": dialogue("A plum."), "rejected": dialogue("A lamp.")}
    with pytest.raises(ValueError, match="chosen must be text, or the prompt's messages and one of the assistant"):
        parse(row)


def test_skyworks_pairs_are_read_as_dialogues_with_a_source() -> None:
    row = {"chosen": dialogue("A plum.", ASKED), "rejected": dialogue("A lamp.", ASKED), "source": "magpie_ultra"}
    assert parse(row) == Preference(prompt=user("Name a fruit."), chosen="A plum.", rejected="A lamp.", source="magpie_ultra")


def test_a_content_of_parts_is_their_text() -> None:
    parts = [{"type": "text", "text": "A "}, {"text": "plum.", "image": None}]
    row = {"prompt": "Name a fruit.", "chosen": [{"role": "assistant", "content": parts}], "rejected": "A lamp."}
    assert parse(row).chosen == "A plum."


@pytest.mark.parametrize(
    ("part", "kind"), [({"type": "image", "url": "a.png"}, "'image'"), ("A plum.", "'str'"), ({"type": "text"}, "'text'")]
)
def test_a_part_that_is_no_text_breaks_the_row(part: object, kind: str) -> None:
    row = {"prompt": "Name a fruit.", "chosen": [{"role": "assistant", "content": [part]}], "rejected": "A lamp."}
    with pytest.raises(ValueError, match=rf"a message has a part that is no text \({kind}\)"):
        parse(row)


def test_messages_may_carry_more_than_role_and_content() -> None:
    more = {"timestamp": None, "tool_calls": [], "name": None, "weight": 1}
    row = {"chosen": dialogue("A plum.", **more), "rejected": dialogue("A lamp.", timestamp="now")}
    assert parse(row).prompt == BEGUN


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{torn", "not a JSON object: '{torn"),
        ([1, 2], r"not a JSON object: \[1, 2\]"),
        ({"prompt": "Name a fruit.", "chosen": "A plum."}, r"rejected missing or empty; the row has \['chosen', 'prompt'\]"),
        ({**PLUM, "chosen": "", "rejected": None}, "chosen and rejected missing or empty"),
        ({**PLUM, "prompt": 5}, "prompt: expected text or a non-empty list of messages, got int"),
        ({**PLUM, "chosen": [turn("user", "A plum.")]}, "chosen must be text, or the prompt's messages and one of the assistant"),
        (
            {**PLUM, "rejected": [turn("user", "Name a lamp."), turn("assistant", "A lamp.")]},
            "rejected must be text, or the prompt's messages and one of the assistant",
        ),
        ({**PLUM, "margin": "2"}, "margin is '2', not a number up to"),
        ({**PLUM, "margin": float("nan")}, "margin is nan, not a number up to"),
        ({**PLUM, "margin": True}, "margin is True, not a number up to"),
        ({**PLUM, "margin": False}, "margin is False, not a number up to"),
        ({"chosen": "A plum.", "rejected": "A lamp."}, "prompt is missing, and chosen is neither a list of messages nor a Human/Assist"),
        (
            {key: [turn("user", f"Name a {key}."), turn("assistant", key)] for key in ("chosen", "rejected")},
            "chosen and rejected must be dialogues that differ in their last turn alone; they part at turn 1 of 2 and 2",
        ),
        (
            {key: [turn("user", "Name a fruit."), turn("user", key)] for key in ("chosen", "rejected")},
            "the last turn of chosen and rejected must be the assistant's",
        ),
    ],
)
def test_a_row_that_is_no_pair_is_refused_with_the_reason(row: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        parse(row)


def test_the_source_of_a_pair_is_fit_for_the_name_of_a_metric() -> None:
    row = {"prompt": "Name a fruit.", "chosen": "A plum.", "rejected": "A lamp."}
    assert parse_preference({**row, "source": "ultra\x1b[31m\n chat\u202e "}).source == "ultra chat"
    assert parse_preference({**row, "source": "x" * 100}).source == "x" * 60
    assert parse_preference(row, source="my\npairs").source == "my pairs"
