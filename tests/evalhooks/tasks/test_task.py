"""Downstream tasks: what a file of prompts becomes, and what is wrong with one that becomes nothing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from core.functions import load_verifier
from core.records import Completion, Message, Prompt, user
from evalhooks.config import TaskConfig
from evalhooks.tasks.task import judged, load_tasks
from evalhooks.tasks.verifiers import gsm8k

GSM8K = "evalhooks.tasks.verifiers:gsm8k"


def written(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_row_becomes_a_prompt_with_what_its_verifier_needs(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2?"}]
    rows = [
        {"id": 17, "prompt": "1 + 1?", "reference": {"answer": "2"}},  # a reference of its own
        {"prompt": turns, "answer": "#### 2"},  # else the row itself; its number is its id
        {"id": "x", "prompt": "a\u2028b\x85c", "reference": "2"},  # separators of str.splitlines inside a text
    ]
    task = load_tasks({"sums": TaskConfig(path=written(tmp_path / "sums.jsonl", rows), verifier=GSM8K)})["sums"]
    dialogue = (Message(role="system", content="Be brief."), Message(role="user", content="2?"))
    assert task.prompts == (
        Prompt(id="17", dialogue=user("1 + 1?"), task="sums", reference={"answer": "2"}),
        Prompt(id="2", dialogue=dialogue, task="sums", reference=rows[1]),
        Prompt(id="x", dialogue=user("a\u2028b\x85c"), task="sums", reference=rows[2]),
    )
    assert task.verifier is gsm8k


def test_the_key_of_the_prompt_and_the_number_of_rows_are_options(tmp_path: Path) -> None:
    rows = [{"question": f"{number}?", "answer": "#### 1"} for number in range(5)]
    config = TaskConfig(path=written(tmp_path / "gsm8k.jsonl", rows), verifier=GSM8K, prompt_key="question", limit=2)
    prompts = load_tasks({"gsm8k": config})["gsm8k"].prompts
    assert [prompt.dialogue for prompt in prompts] == [user("0?"), user("1?")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"}\n{"prompt": \n', r"sums.jsonl, row 2 is no JSON"),
        ('{"prompt": "a"}\n\n{"prompt": \n', r"sums.jsonl, row 3 is no JSON"),  # blank lines are skipped, and counted
        ('{"prompt": "a"}\n{"question": "b"}\n', r"row 2 has no 'prompt'; set tasks.sums.prompt_key to the key of the prompt"),
        ('["a"]\n', r"row 1 has no 'prompt'"),
        ('{"prompt": [{"role": "user"}]}\n', r"row 1: every message needs a 'role' and a 'content'"),
        ('{"prompt": "a \\ud800"}\n', r"row 1 holds '\\ud800', half of a character"),
        ('{"prompt": 5}\n', r"row 1: expected text or a non-empty list of messages, got int"),
        ("", r"tasks.sums.path=.*sums.jsonl contains no prompts"),
    ],
)
def test_a_broken_file_is_refused_by_its_row(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sums.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_tasks({"sums": TaskConfig(path=str(tmp_path / "sums.jsonl"), verifier=GSM8K)})


def test_a_missing_file_is_refused_by_its_key() -> None:
    with pytest.raises(ValueError, match=r"tasks.sums.path=/nowhere/sums.jsonl does not exist; give a JSONL file"):
        load_tasks({"sums": TaskConfig(path="/nowhere/sums.jsonl", verifier=GSM8K)})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.at_all:verify", r"the verifier nowhere.at_all:verify: the module nowhere.at_all cannot be imported"),
        ("evalhooks.tasks.verifiers:gsm9k", r"the verifier evalhooks.tasks.verifiers:gsm9k: .*no attribute 'gsm9k'"),
        ("evalhooks.tasks.verifiers:__doc__", r"the verifier evalhooks.tasks.verifiers:__doc__: .* is not callable; name a function"),
    ],
)
def test_a_verifier_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_verifier(name)


def nothing(completion: str, reference: Mapping[str, Any]) -> Any:
    """Forgets to return."""


def percent(completion: str, reference: Mapping[str, Any]) -> float:
    return 100.0 if completion == reference["answer"] else 0.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", r"test_task:nothing returned None for the prompt '1 \+ 1\?', which is not a finite number"),
        ("percent", r"test_task:percent returned 100.0 for the prompt '1 \+ 1\?'; a task's verifier gives correctness from 0 to 1"),
        ("equals", r"test_task:equals, judging an answer to the prompt '1 \+ 1\?': KeyError: 'text' \(.*test_task.py:\d+\)"),
    ],
)
def test_a_verifier_is_tried_on_the_first_row_when_its_task_is_loaded(tmp_path: Path, name: str, message: str) -> None:
    path = written(tmp_path / "sums.jsonl", [{"prompt": "1 + 1?", "answer": "2"}])
    with pytest.raises(ValueError, match=rf"tasks.sums.verifier does not fit the first row of .*sums.jsonl: .*{message}"):
        load_tasks({"sums": TaskConfig(path=path, verifier=f"{__name__}:{name}")})


def equals(completion: str, reference: Mapping[str, Any]) -> float:
    return float(completion == reference["text"])


def test_every_completion_is_judged_against_its_own_prompts_reference() -> None:
    prompts = [Prompt(id=text, dialogue=user(text), reference={"text": wanted}) for text, wanted in (("a", "aa"), ("b", "b"), ("c", "a"))]
    answers = [[Completion(text=text * i, token_ids=(1,), finished=True) for i in (1, 2)] for text in "abc"]
    assert judged(equals, prompts, answers).correct == [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
