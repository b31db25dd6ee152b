"""A transcript of HH-RLHF's form is the same dialogue wherever it stands: alone, in a prompt column, or beside one."""

from typing import Any

import pytest

from core.data.dialogues import parse_dialogue, parse_transcript
from core.data.preferences import parse_preference
from core.records import Message, user
from evalhooks.rewardbench.rows import load_rewardbench1, load_rewardbench2
from ppo.prompts import parse_prompt
from tests.core.data.pairs import turn

BEGUN = "\n\nHuman: Hello.\n\nAssistant: Hi.\n\nHuman: Name a fruit.\n\nAssistant:"
TURNS = (*user("Hello."), Message(role="assistant", content="Hi."), *user("Name a fruit."))
MESSAGES = [turn("user", "Hello."), turn("assistant", "Hi."), turn("user", "Name a fruit.")]
ALONE = {"chosen": f"{BEGUN} Pear.", "rejected": f"{BEGUN} Lamp."}
BARE = {"chosen": " Pear.", "rejected": " Lamp."}
WHOLE = {key: [*MESSAGES, turn("assistant", answer)] for key, answer in (("chosen", "Pear."), ("rejected", "Lamp."))}


@pytest.mark.parametrize(
    "row",
    [
        ALONE,
        {"prompt": BEGUN, **BARE},
        {"prompt": BEGUN + " ", "chosen": "Pear.\n", "rejected": "Lamp."},
        {"prompt": BEGUN.strip(), **BARE},
        {"prompt": BEGUN.removesuffix("\n\nAssistant:"), **BARE},
        {"prompt": BEGUN.strip().replace("\n\n", "\n"), **BARE},
        {"prompt": BEGUN, **ALONE},
        {"prompt": BEGUN.strip(), **ALONE},
        {"prompt": "Name a fruit.", **ALONE},
        {"prompt": "Hello.", **ALONE},
        {"prompt": MESSAGES, **ALONE},
        {"prompt": BEGUN, "chosen": f"{BEGUN} Pear.", "rejected": " Lamp."},
        {"prompt": BEGUN, "chosen": [turn("assistant", "Pear.")], "rejected": [turn("assistant", "Lamp.")]},
        {"prompt": BEGUN, **WHOLE},
        {"prompt": None, "chosen": f"{BEGUN} Pear.".strip(), "rejected": f"{BEGUN} Lamp.".strip()},
    ],
)
def test_a_pair_is_the_same_whichever_columns_hold_its_transcript(row: dict[str, Any]) -> None:
    pair = parse_preference(row)
    assert (pair.prompt, pair.chosen, pair.rejected) == (TURNS, "Pear.", "Lamp.")


def test_an_answer_that_the_prompt_begins_is_whole() -> None:
    pair = parse_preference({"prompt": f"{BEGUN} I say ", "chosen": "pear.", "rejected": "lamp."})
    assert (pair.prompt, pair.chosen, pair.rejected) == (TURNS, "I say pear.", "I say lamp.")
    beside = {key: f"{BEGUN} I say {key}." for key in ("chosen", "rejected")}
    assert parse_preference({"prompt": f"{BEGUN} I say", **beside}).chosen == "I say chosen."


@pytest.mark.parametrize("text", ["Human: a proud word.", "What did the Human: say?\n\nAssistant: in chess", "Humanity\n\nAssistant:", ""])
def test_text_that_is_no_transcript_stays_as_it_is(text: str) -> None:
    assert parse_transcript(text) is None
    assert parse_dialogue(text, "prompt") == user(text)


def test_an_answer_that_looks_like_a_transcript_of_something_else_is_an_answer() -> None:
    odd = "Human: Hi.\n\nAssistant: Hello."
    pair = parse_preference({"prompt": "Write a dialogue.", "chosen": odd, "rejected": "No."})
    assert (pair.prompt, pair.chosen, pair.rejected) == (user("Write a dialogue."), odd, "No.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": BEGUN, "chosen": "\n\nHuman: Else.\n\nAssistant: Pear.", "rejected": "\n\nHuman: Else.\n\nAssistant: Lamp."},
        {"prompt": "Else.", **ALONE, "rejected": "\n\nHuman: Else.\n\nAssistant: Lamp."},
        {"prompt": "Else.", **ALONE},
        {"prompt": [turn("user", "Else.")], **ALONE},
    ],
)
def test_transcripts_of_another_prompt_break_the_row(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"prompt is none of|must be dialogues that differ|must be text, or the prompt's messages"):
        parse_preference(row)


@pytest.mark.parametrize("row", [{"prompt": BEGUN}, {"question": BEGUN}, {"prompt": "Hello.", **ALONE}, {"prompt": BEGUN, **BARE}, ALONE])
def test_a_prompt_for_a_policy_is_the_turns_of_its_transcript(row: dict[str, Any]) -> None:
    assert parse_prompt(row) == TURNS


def test_a_transcript_that_ends_with_an_answer_is_no_prompt() -> None:
    with pytest.raises(ValueError, match="the transcript ends with an answer of the assistant"):
        parse_prompt({"prompt": f"{BEGUN} Pear."})


def test_a_benchmarks_transcripts_are_read_as_those_of_training(tmp_path: Any) -> None:
    import json

    first = {"id": "1", "prompt": BEGUN, "chosen": [" Pear."], "rejected": [" Lamp."], "subset": "Focus"}
    (tmp_path / "2.jsonl").write_text(json.dumps(first))
    (tmp_path / "1.jsonl").write_text(json.dumps({**first, "chosen": " Pear.", "rejected": f"{BEGUN} Lamp."}))
    for (row,) in (load_rewardbench2(str(tmp_path / "2.jsonl")), load_rewardbench1(str(tmp_path / "1.jsonl"))):
        assert (row.dialogue, row.completions) == (TURNS, ("Pear.", "Lamp."))
