"""Prompts out of the forms that data comes in, each with what its verifier needs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.records import Message, Prompt, user
from ppo.prompts import read_prompts

FRUIT, TOOL = user("Name a fruit."), user("Name a tool.")
TALK = (*user("Hello."), Message(role="assistant", content="Hi."), *FRUIT)


def jsonl(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)]


@pytest.mark.parametrize(
    ("row", "dialogue"),
    [
        ({"prompt": "Name a fruit."}, FRUIT),
        ({"prompt": turns("Hello.", "Hi.", "Name a fruit.")}, TALK),
        ({"question": "Name a fruit.", "answer": "plum"}, FRUIT),
        ({"messages": turns("Name a fruit.", "A plum.")}, FRUIT),
        ({"messages": turns("Hello.", "Hi.", "Name a fruit.")}, TALK),
        ({"prompt": None, "messages": turns("Name a fruit.")}, FRUIT),
        ({"prompt": "Name a fruit.", "chosen": "A plum.", "rejected": "A lamp."}, FRUIT),
        ({"prompt": "Name a fruit.", "chosen": turns("Name a fruit.", "A plum."), "rejected": turns("Name a fruit.", "A lamp.")}, FRUIT),
        # As in Tulu 3's mix: the prompt is one of the turns, and the dialogues tell what came before it.
        (
            {
                "prompt": "Name a fruit.",
                "chosen": turns("Hello.", "Hi.", "Name a fruit.", "A plum."),
                "rejected": turns("Hello.", "Hi.", "Name a fruit.", "A lamp."),
            },
            TALK,
        ),
        ({"chosen": turns("Name a fruit.", "A plum."), "rejected": turns("Name a fruit.", "A lamp.")}, FRUIT),
        ({"chosen": "\n\nHuman: Name a fruit.\n\nAssistant: A plum.", "rejected": "\n\nHuman: Name a fruit.\n\nAssistant: No."}, FRUIT),
    ],
)
def test_every_form_of_row_gives_its_prompt(tmp_path: Path, row: dict[str, Any], dialogue: tuple[Message, ...]) -> None:
    [prompt] = read_prompts([jsonl(tmp_path / "rows.jsonl", [row])])
    assert prompt.dialogue == dialogue


def test_a_prompt_brings_the_rows_reference_or_the_row_without_its_answers(tmp_path: Path) -> None:
    rows = [
        {"id": "sum", "prompt": "2 plus 3?", "reference": {"answer": "5"}},
        {"question": "Name a fruit.", "answer": "#### 5", "reference": "no mapping"},
        {"prompt": "Name a tool.", "chosen": "A saw.", "rejected": "A plum.", "source": "x"},
    ]
    assert read_prompts([jsonl(tmp_path / "rows.jsonl", rows)]) == [
        Prompt(id="sum", dialogue=user("2 plus 3?"), reference={"answer": "5"}),
        Prompt(id="rows-2", dialogue=FRUIT, reference={"question": "Name a fruit.", "answer": "#### 5", "reference": "no mapping"}),
        Prompt(id="rows-3", dialogue=TOOL, reference={"prompt": "Name a tool.", "source": "x"}),
    ]


def test_prompts_are_different_in_the_order_of_the_sources_and_keep_their_first_row(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "a.jsonl", [{"id": 1, "prompt": "Name a tool."}, {"id": 2, "prompt": "Name a tool."}])
    second = jsonl(tmp_path / "b.jsonl", [{"id": 3, "prompt": "Name a tool."}, {"id": 4, "prompt": "Name a fruit."}])
    assert [(prompt.id, prompt.dialogue) for prompt in read_prompts([first, second])] == [("1", TOOL), ("4", FRUIT)]
    assert [prompt.id for prompt in read_prompts([second, first])] == ["3", "4"]


def test_a_limit_counts_different_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": text} for text in ("Name a tool.", "Name a tool.", "Name a fruit.", "Name a sum.")]
    assert [prompt.dialogue for prompt in read_prompts([jsonl(tmp_path / "a.jsonl", rows)], limit=2)] == [TOOL, FRUIT]


def test_a_parquet_file_a_folder_and_a_saved_dataset_are_read_alike(tmp_path: Path) -> None:
    rows = [
        {"prompt": None, "chosen": turns("Name a fruit.", "A plum."), "rejected": turns("Name a fruit.", "A lamp.")},
        {"prompt": "Name a fruit.", "chosen": turns(*"1234", "Name a fruit.", "A plum."), "rejected": turns(*"1234", "Name a fruit.", "5")},
    ]
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    for number in range(2):
        pq.write_table(table.slice(number, 1), folder / f"train-{number:05}-of-00002.parquet")
    pq.write_table(table, tmp_path / "pairs.parquet")
    from datasets import Dataset

    Dataset(table).save_to_disk(tmp_path / "saved")
    expected = [FRUIT, (*(Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate("1234")), *FRUIT)]
    for path in ("pairs.parquet", "hub", "saved"):
        prompts = read_prompts([str(tmp_path / path)])
        assert [prompt.dialogue for prompt in prompts] == expected
        assert all(not {"chosen", "rejected"} & prompt.reference.keys() for prompt in prompts)


def test_broken_rows_are_listed_by_number_with_the_reason(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Name a fruit."},
        {"text": "?"},
        3,
        {"prompt": ""},
        {"messages": turns("a", "b")[1:]},
        {"prompt": [{"role": "user"}]},
    ]
    file = jsonl(tmp_path / "rows.jsonl", [*rows, {"prompt": "\ud800"}])
    with pytest.raises(ValueError, match=r"rows\.jsonl, which has 6 row\(s\) without a prompt") as caught:
        read_prompts([file])
    said = str(caught.value)
    assert "row 2: prompt, question, messages, chosen, rejected: all missing or empty; the row has ['text']" in said
    assert "row 3: not a JSON object: 3" in said
    assert "row 5: messages holds an answer and no prompt" in said
    assert "row 6: prompt: every message needs" in said
    assert "and 1 more" in said


def test_a_source_that_is_not_there_and_one_without_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prompts names .*nowhere\.jsonl, which does not exist; give a JSONL or parquet file"):
        read_prompts([str(tmp_path / "nowhere.jsonl")])
    with pytest.raises(ValueError, match="hold no prompts"):
        read_prompts([jsonl(tmp_path / "empty.jsonl", [])])
    (tmp_path / "hub").mkdir()
    pq.write_table(pa.Table.from_pylist([{"prompt": "?"}]), tmp_path / "hub" / "test.parquet")
    with pytest.raises(ValueError, match="has no split 'train' but test; prompts are read from the split train"):
        read_prompts([str(tmp_path / "hub")])
