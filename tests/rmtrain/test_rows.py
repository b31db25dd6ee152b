"""Preference rows are read in the forms and from the places they come in, and what is wrong with a broken one is said."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from core.records import Message, Preference, user
from rmtrain.config import SourceConfig
from rmtrain.rows import ReadPairs, read_pairs
from tests.rmtrain.pairs import BEGINNING, BEGUN, PLUM, PLUM_PAIR, dialogue, read, read_row, turn, write_jsonl, write_parquet


def test_a_line_of_json_is_a_pair_whose_source_is_the_file(tmp_path: Path) -> None:
    assert read_row(tmp_path, PLUM) == PLUM_PAIR


def test_a_row_may_name_its_own_source_and_margin(tmp_path: Path) -> None:
    pair = read_row(tmp_path, {**PLUM, "source": "fruits", "margin": 2})
    assert (pair.source, pair.margin) == ("fruits", 2.0)


def test_blank_lines_are_passed_over(tmp_path: Path) -> None:
    assert read(write_jsonl(tmp_path / "pairs.jsonl", [PLUM, "", PLUM])).pairs == [PLUM_PAIR, PLUM_PAIR]


def test_parquet_gives_the_pairs_that_jsonl_gives(tmp_path: Path) -> None:
    messages = [turn("user", "Name a fruit.")]
    rows: list[dict[str, Any]] = [
        {"prompt": messages, "chosen": "A plum.", "rejected": "A lamp.", "margin": 1.5},
        {"prompt": messages, "chosen": "A pear.", "rejected": "A sock.", "margin": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    pairs = read(tmp_path / "pairs.parquet").pairs
    assert pairs == read(write_jsonl(tmp_path / "pairs.jsonl", rows)).pairs
    assert [pair.margin for pair in pairs] == [1.5, None]


@pytest.mark.parametrize(
    "answer",
    [lambda text: text, lambda text: [turn("assistant", text)], lambda text: [turn("user", "Name a fruit."), turn("assistant", text)]],
    ids=["text", "one message", "the whole dialogue again"],
)
@pytest.mark.parametrize("prompt", ["Name a fruit.", [turn("user", "Name a fruit.")]], ids=["text", "messages"])
def test_prompt_and_answers_may_each_be_text_or_messages(tmp_path: Path, prompt: Any, answer: Any) -> None:
    row = {"prompt": prompt, "chosen": answer("A plum."), "rejected": answer("A lamp.")}
    assert read_row(tmp_path, row) == PLUM_PAIR


def test_without_a_prompt_it_is_what_the_two_dialogues_begin_with(tmp_path: Path) -> None:
    beginning = [turn("system", "Be short."), turn("user", "Hello."), turn("assistant", "Hi."), turn("user", "Name a fruit.")]
    row = {"chosen": [*beginning, turn("assistant", "A plum.")], "rejected": [*beginning, turn("assistant", "A lamp.")]}
    prompt = tuple(Message(role=message["role"], content=message["content"]) for message in beginning)
    assert read_row(tmp_path, row) == Preference(prompt=prompt, chosen="A plum.", rejected="A lamp.", source="pairs")


def test_a_system_turn_of_the_prompt_is_kept(tmp_path: Path) -> None:
    pair = read_row(tmp_path, {**PLUM, "prompt": [turn("system", "Be short."), turn("user", "Name a fruit.")]})
    assert pair.prompt == (Message(role="system", content="Be short."), Message(role="user", content="Name a fruit."))


def test_a_transcript_of_hh_is_split_into_its_turns(tmp_path: Path) -> None:
    beginning = "\n\nHuman: Hello.\n\nAssistant: Hi.\n\nWhat now?\n\nHuman: Name a fruit.\n\nAssistant:"
    pair = read_row(tmp_path, {"chosen": f"{beginning} A plum.", "rejected": f"{beginning} A lamp."})
    assert pair.prompt == (
        Message(role="user", content="Hello."),
        Message(role="assistant", content="Hi.\n\nWhat now?"),
        Message(role="user", content="Name a fruit."),
    )
    assert (pair.chosen, pair.rejected) == ("A plum.", "A lamp.")


def test_an_assistant_that_speaks_twice_in_a_transcript_gives_one_turn(tmp_path: Path) -> None:
    beginning = "\n\nHuman: Hello.\n\nAssistant:\n\nAssistant: Hi.\n\nAssistant: You?\n\nHuman: Name a fruit.\n\nAssistant:"
    pair = read_row(tmp_path, {"chosen": f"{beginning} A plum.\n\nAssistant: A pear.", "rejected": f"{beginning} A lamp."})
    assert [(message.role, message.content) for message in pair.prompt] == [
        ("user", "Hello."),
        ("assistant", "Hi.\n\nYou?"),
        ("user", "Name a fruit."),
    ]
    assert (pair.chosen, pair.rejected) == ("A plum.\n\nA pear.", "A lamp.")


def test_an_empty_answer_in_a_transcript_is_an_answer(tmp_path: Path) -> None:
    pair = read_row(tmp_path, {"chosen": "\n\nHuman: Swear.\n\nAssistant: ", "rejected": "\n\nHuman: Swear.\n\nAssistant: Damn."})
    assert (pair.chosen, pair.rejected) == ("", "Damn.")


def test_rows_of_two_equal_answers_are_dropped_and_counted(tmp_path: Path) -> None:
    same = {**PLUM, "rejected": "A plum."}
    same_transcript = dict.fromkeys(("chosen", "rejected"), "\n\nHuman: Name a fruit.\n\nAssistant: A plum.")
    path = write_jsonl(tmp_path / "pairs.jsonl", [same, PLUM, same_transcript])
    said: list[str] = []
    assert read(path, say=said.append) == ReadPairs(pairs=[PLUM_PAIR], num_rows=3, num_broken=0, num_equal=2)
    assert said == [f"dropped 2 of 3 pairs of {path} whose chosen and rejected are the same text"]


def test_nothing_is_said_of_a_file_without_equal_answers(tmp_path: Path) -> None:
    said: list[str] = []
    read(write_jsonl(tmp_path / "pairs.jsonl", [PLUM]), say=said.append)
    assert said == []


def test_a_file_of_equal_answers_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no preference pairs; it needs at least one row whose chosen and rejected differ"):
        read(write_jsonl(tmp_path / "pairs.jsonl", [{**PLUM, "rejected": "A plum."}]))


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
def test_a_broken_row_is_named_by_its_number_and_its_reason(tmp_path: Path, row: Any, reason: str) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [PLUM, "", row, PLUM])
    with pytest.raises(ValueError, match=rf"has 1 broken row\(s\) of 3:\n  row 3: {reason}"):  # the blank line 2 is counted
        read(path)


def test_the_first_five_broken_rows_are_listed_with_what_a_row_should_be(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [PLUM, *["{torn"] * 7])
    with pytest.raises(ValueError, match=r"has 7 broken row\(s\) of 8") as raised:
        read(path)
    message = str(raised.value)
    assert [number for number in range(1, 9) if f"row {number}: " in message] == [2, 3, 4, 5, 6]
    assert "and 2 more" in message
    assert "A row is {'prompt', 'chosen', 'rejected'}" in message
    assert message.endswith("Mend or remove these rows, or leave them out with data.skip_broken=true.")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"empty\.jsonl holds no preference pairs"):
        read(write_jsonl(tmp_path / "empty.jsonl", []))


# The columns of the datasets on the hub, as they are called there; what a trainer of reward models reads of them is text and roles.
TULU = {"id": "x-1", "source": "ultrafeedback_cleaned_olmo2_7b", "prompt": "Name a fruit.", "chosen_model": "a", "rejected_model": "b"}
ULTRAFEEDBACK = {"prompt": "Name a fruit.", "prompt_id": "0a", "score_chosen": 8.5, "score_rejected": 3.0}
ASKED = (("user", "Name a fruit."),)


def test_tulu_3s_preference_mix_is_read(tmp_path: Path) -> None:
    row = TULU | {"chosen": dialogue("A plum.", ASKED), "rejected": dialogue("A lamp.", ASKED)}
    pair = read_row(tmp_path, row)
    assert pair == Preference(prompt=user("Name a fruit."), chosen="A plum.", rejected="A lamp.", source="ultrafeedback_cleaned_olmo2_7b")


@pytest.mark.parametrize("asked", ["Hello.", "Name a fruit.", " Name a fruit.\n"])
def test_a_prompt_that_is_one_user_turn_of_two_whole_dialogues_gives_way_to_all_turns_before_the_last(tmp_path: Path, asked: str) -> None:
    row = TULU | {"prompt": asked, "chosen": dialogue("A plum."), "rejected": dialogue("A lamp.")}
    pair = read_row(tmp_path, row)
    assert (pair.prompt, pair.chosen, pair.rejected) == (BEGUN, "A plum.", "A lamp.")


@pytest.mark.parametrize("asked", ["Hi.", "Be short.", "Name a"])
def test_a_prompt_that_is_no_user_turn_of_the_dialogues_breaks_the_row(tmp_path: Path, asked: str) -> None:
    row = TULU | {"prompt": asked, "chosen": dialogue("A plum."), "rejected": dialogue("A lamp.")}
    with pytest.raises(ValueError, match=f"row 1: prompt is none of the user turns of chosen and rejected: '{asked}'"):
        read_row(tmp_path, row)


@pytest.mark.parametrize("prompt", ["Hello.", None])
def test_dialogues_that_part_before_their_last_turn_break_the_row_at_the_turn_that_is_named(tmp_path: Path, prompt: str | None) -> None:
    other = [*BEGINNING[:2], ("assistant", "Hi there."), BEGINNING[3]]
    row = {"prompt": prompt, "chosen": dialogue("A plum."), "rejected": dialogue("A lamp.", other)}
    with pytest.raises(ValueError, match="must be dialogues that differ in their last turn alone; they part at turn 3 of 5 and 5"):
        read_row(tmp_path, row)


def test_of_dialogues_of_two_lengths_that_agree_the_end_of_the_shorter_is_named(tmp_path: Path) -> None:
    longer = (*ASKED, ("assistant", "A plum."), ("user", "And one more?"))
    row = {"chosen": dialogue("A plum.", ASKED), "rejected": dialogue("A lamp.", longer)}
    with pytest.raises(ValueError, match="they part at turn 2 of 2 and 4"):
        read_row(tmp_path, row)


def test_messages_as_a_prompt_must_be_those_of_the_dialogues_to_the_last(tmp_path: Path) -> None:
    row = {"prompt": [turn("user", "Hello.")], "chosen": dialogue("A plum."), "rejected": dialogue("A lamp.")}
    with pytest.raises(ValueError, match="row 1: chosen must be text, or the prompt's messages and one of the assistant"):
        read_row(tmp_path, row)


def test_skyworks_pairs_are_read_as_dialogues_with_a_source(tmp_path: Path) -> None:
    row = {"chosen": dialogue("A plum.", ASKED), "rejected": dialogue("A lamp.", ASKED), "source": "magpie_ultra"}
    assert read_row(tmp_path, row) == Preference(prompt=user("Name a fruit."), chosen="A plum.", rejected="A lamp.", source="magpie_ultra")


def test_ultrafeedback_binarized_is_read_from_the_split_that_is_named_and_its_scores_are_no_margin(tmp_path: Path) -> None:
    sides = {"chosen": dialogue("A plum.", ASKED), "rejected": dialogue("A lamp.", ASKED)}
    for split in ("train_prefs", "test_prefs"):
        row = ULTRAFEEDBACK | sides | {"messages": sides["chosen"]}
        write_parquet(tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet", [row] * (1 if split == "train_prefs" else 2))
    assert read(tmp_path / "hub", split="train_prefs") == ReadPairs(pairs=[PLUM_PAIR], num_rows=1, num_broken=0, num_equal=0)
    assert read(tmp_path / "hub", split="test_prefs").num_rows == 2


def test_messages_may_carry_more_than_role_and_content(tmp_path: Path) -> None:
    more = {"timestamp": None, "tool_calls": [1], "name": "x"}
    row = {"chosen": dialogue("A plum.", **more), "rejected": dialogue("A lamp.", timestamp="now")}
    assert read_row(tmp_path, row).prompt == BEGUN


@pytest.mark.parametrize("columns", [{"prompt": None}, {"prompt": None, "margin": None, "source": None}, {"prompt": []}])
def test_a_null_counts_as_missing(tmp_path: Path, columns: dict[str, Any]) -> None:
    row = columns | {"chosen": dialogue("A plum.", ASKED), "rejected": dialogue("A lamp.", ASKED)}
    assert read(write_parquet(tmp_path / "pairs.parquet", [row])).pairs == [PLUM_PAIR]
    Dataset.from_list([row]).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved").pairs == [PLUM_PAIR]


def test_broken_rows_are_left_out_on_request_and_the_first_are_listed(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", ["{torn", PLUM, *["{torn"] * 6])
    said: list[str] = []
    assert read(path, skip_broken=True, say=said.append) == ReadPairs(pairs=[PLUM_PAIR], num_rows=8, num_broken=7, num_equal=0)
    (line,) = said
    assert line.startswith(f"{path}: left out 7 broken row(s) of 8:\n  row 1: not a JSON object: '{{torn'\n  row 3: ")
    assert line.endswith("row 6: not a JSON object: '{torn'\n  and 2 more: 7, 8")


def test_data_of_nothing_but_broken_rows_is_refused_though_they_may_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 2 broken row\(s\) of 2:(.|\n)*Mend these rows\.$"):
        read(write_jsonl(tmp_path / "pairs.jsonl", ["{torn"] * 2), skip_broken=True)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1' + "0" * 400 + "}", "margin is 1000"),
        ('{"prompt": "a", "chosen": "\\ud800", "rejected": "c"}', "surrogates not allowed"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "id": 1' + "0" * 5000 + "}", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
    ],
    ids=["a margin beyond floats", "half a surrogate pair", "a number of thousands of digits", "brackets as deep"],
)
def test_what_python_itself_stumbles_over_is_a_broken_row(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=f"row 2: .*{reason}"):
        read_pairs(SourceConfig(path=str(file)), "pairs")


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\ufeff" + json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n", encoding="utf-8")
    assert len(read_pairs(SourceConfig(path=str(file)), "pairs").pairs) == 1
