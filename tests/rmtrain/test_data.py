"""Preference files are read in the forms they come in, checked row by row, sampled and flipped by seed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.records import Message, Preference, user
from rmtrain.config import PreferenceDataConfig
from rmtrain.data import flip, load_preferences, read_preferences

PLUM = {"prompt": "Name a fruit.", "chosen": "A plum.", "rejected": "A lamp."}
PLUM_PAIR = Preference(prompt=user("Name a fruit."), chosen="A plum.", rejected="A lamp.", source="pairs")


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def write_jsonl(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def read_row(tmp_path: Path, row: Mapping[str, Any]) -> Preference:
    (pair,) = read_preferences(write_jsonl(tmp_path / "pairs.jsonl", [row]))
    return pair


def numbered(num: int, prefix: str = "") -> list[dict[str, str]]:
    return [{"prompt": f"{prefix}{i}", "chosen": "good", "rejected": "bad"} for i in range(num)]


def load(paths: list[str], *, seed: int = 0, **options: float) -> tuple[list[Preference], list[Preference]]:
    return load_preferences(PreferenceDataConfig(paths=paths, **options), seed=seed)  # type: ignore[arg-type]


def prompts(pairs: Sequence[Preference]) -> list[str]:
    return [pair.prompt[0].content for pair in pairs]


def test_a_line_of_json_is_a_pair_whose_source_is_the_file(tmp_path: Path) -> None:
    assert read_row(tmp_path, PLUM) == PLUM_PAIR


def test_a_row_may_name_its_own_source_and_margin(tmp_path: Path) -> None:
    pair = read_row(tmp_path, {**PLUM, "source": "fruits", "margin": 2})
    assert (pair.source, pair.margin) == ("fruits", 2.0)


def test_blank_lines_are_passed_over(tmp_path: Path) -> None:
    assert read_preferences(write_jsonl(tmp_path / "pairs.jsonl", [PLUM, "", PLUM])) == [PLUM_PAIR, PLUM_PAIR]


def test_parquet_gives_the_pairs_that_jsonl_gives(tmp_path: Path) -> None:
    messages = [turn("user", "Name a fruit.")]
    rows: list[dict[str, Any]] = [
        {"prompt": messages, "chosen": "A plum.", "rejected": "A lamp.", "margin": 1.5},
        {"prompt": messages, "chosen": "A pear.", "rejected": "A sock.", "margin": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    pairs = read_preferences(str(tmp_path / "pairs.parquet"))
    assert pairs == read_preferences(write_jsonl(tmp_path / "pairs.jsonl", rows))
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
    assert read_preferences(path, said.append) == [PLUM_PAIR]
    assert said == [f"dropped 2 of 3 pairs of {path} whose chosen and rejected are the same text"]
    load_preferences(PreferenceDataConfig(paths=[path]), seed=0, say=said.append)
    assert said == [said[0]] * 2


def test_nothing_is_said_of_a_file_without_equal_answers(tmp_path: Path) -> None:
    said: list[str] = []
    read_preferences(write_jsonl(tmp_path / "pairs.jsonl", [PLUM]), said.append)
    assert said == []


def test_a_file_of_equal_answers_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no preference pairs; it needs at least one row whose chosen and rejected differ"):
        read_preferences(write_jsonl(tmp_path / "pairs.jsonl", [{**PLUM, "rejected": "A plum."}]))


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
        ({**PLUM, "margin": "2"}, "margin is '2', not a finite number"),
        ({**PLUM, "margin": float("nan")}, "margin is nan, not a finite number"),
        ({"chosen": "A plum.", "rejected": "A lamp."}, "prompt is missing, and chosen is neither a list of messages nor a Human/Assist"),
        (
            {key: [turn("user", f"Name a {key}."), turn("assistant", key)] for key in ("chosen", "rejected")},
            "without a prompt, chosen and rejected must be dialogues that differ in their last turn alone",
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
        read_preferences(path)


def test_the_first_five_broken_rows_are_listed_with_what_a_row_should_be(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [PLUM, *["{torn"] * 7])
    with pytest.raises(ValueError, match=r"has 7 broken row\(s\) of 8") as raised:
        read_preferences(path)
    message = str(raised.value)
    assert [number for number in range(1, 9) if f"row {number}: " in message] == [2, 3, 4, 5, 6]
    assert "and 2 more" in message
    assert "A row is {'prompt', 'chosen', 'rejected'}" in message
    assert message.endswith("Mend or remove these rows.")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"empty\.jsonl holds no preference pairs"):
        read_preferences(write_jsonl(tmp_path / "empty.jsonl", []))


@pytest.mark.parametrize("path", ["/nowhere/pairs.jsonl", "pairs.jsonl", "/nowhere/pairs", "pairs", "a/b/c"])
def test_a_missing_file_is_named_with_its_key_and_a_remedy(path: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.paths names {path}, which does not exist; give a JSONL or parquet file, or a hub"):
        read_preferences(path)


@pytest.mark.parametrize(("share", "num_flipped"), [(0.0, 0), (0.1, 4), (0.25, 10), (1.0, 40)])
def test_exactly_the_asked_share_is_flipped_in_place(share: float, num_flipped: int) -> None:
    pairs = [Preference(prompt=user(str(i)), chosen="good", rejected="bad", margin=1.0) for i in range(40)]
    flipped = flip(pairs, share, seed=0)
    assert sum(pair.chosen == "bad" and pair.rejected == "good" for pair in flipped) == num_flipped
    assert sum(pair.chosen == "good" and pair.rejected == "bad" for pair in flipped) == 40 - num_flipped
    assert prompts(flipped) == [str(i) for i in range(40)]


def test_the_flipped_pairs_are_drawn_by_seed() -> None:
    pairs = [Preference(prompt=user(str(i)), chosen="good", rejected="bad") for i in range(40)]
    assert flip(pairs, 0.25, seed=1) == flip(pairs, 0.25, seed=1)
    assert flip(pairs, 0.25, seed=1) != flip(pairs, 0.25, seed=2)


def test_several_paths_form_their_full_union(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", numbered(num, name)) for name, num in (("a", 3), ("b", 5))]
    training, held_out = load(paths)
    assert sorted(prompts(training)) == ["a0", "a1", "a2", "b0", "b1", "b2", "b3", "b4"]
    assert {pair.source for pair in training} == {"a", "b"}
    assert held_out == []


def test_the_order_is_shuffled_by_seed(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / "pairs.jsonl", numbered(40))]
    first, _ = load(paths, seed=1)
    assert load(paths, seed=1)[0] == first
    assert prompts(load(paths, seed=2)[0]) != prompts(first) != [str(i) for i in range(40)]


def test_a_subsample_keeps_its_share_and_a_larger_one_contains_it(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / "pairs.jsonl", numbered(40))]
    quarter, half = (set(prompts(load(paths, subsample=share)[0])) for share in (0.25, 0.5))
    assert (len(quarter), len(half)) == (10, 20)
    assert quarter < half


def test_the_least_subsample_is_one_pair(tmp_path: Path) -> None:
    assert len(load([write_jsonl(tmp_path / "pairs.jsonl", numbered(40))], subsample=0.001)[0]) == 1


def test_held_out_pairs_are_apart_from_training_and_never_flipped(tmp_path: Path) -> None:
    training, held_out = load([write_jsonl(tmp_path / "pairs.jsonl", numbered(40))], held_out=0.2, flip=1.0)
    assert len(held_out) == 8
    assert sorted(prompts(training) + prompts(held_out)) == sorted(str(i) for i in range(40))
    assert {pair.chosen for pair in held_out} == {"good"}
    assert {pair.chosen for pair in training} == {"bad"}


def test_flipping_moves_no_pair_so_that_runs_with_and_without_it_compare(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / "pairs.jsonl", numbered(40))]
    plain, flipped = load(paths, held_out=0.2), load(paths, held_out=0.2, flip=0.5)
    assert prompts(flipped[0]) == prompts(plain[0])
    assert flipped[1] == plain[1]


def test_a_held_out_share_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", numbered(4))
    with pytest.raises(ValueError, match=r"data\.held_out=0\.9 leaves none of 4 pair\(s\) to train on; lower it"):
        load([path], held_out=0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": []}, r"data\.paths is empty; give preference files"),
        ({"subsample": 0.0}, r"data\.subsample is 0\.0; it is a share above 0 and at most 1"),
        ({"flip": 1.5}, r"data\.flip is 1\.5; it is a share from 0 to 1"),
        ({"held_out": 1.0}, r"data\.held_out is 1\.0; it is a share from 0 to below 1"),
    ],
)
def test_what_cannot_be_is_refused_with_key_value_and_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceDataConfig(**{"paths": ["pairs.jsonl"], **options})
