"""Programs in completions, and HumanEval's tests of them in the sandbox."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from evalhooks.tasks.code import program_of
from evalhooks.tasks.verifiers import humaneval

PROMPT = 'from typing import List\n\ndef helper(n):\n    return n + 1\n\ndef count(items: List[int]) -> int:\n    """How many."""\n'
BODY = "    return len(items)\n"
WHOLE = f"def count(items: List[int]) -> int:\n{BODY}"
ROW = {"prompt": PROMPT, "entry_point": "count", "test": "def check(candidate):\n    assert candidate([1, 2]) == helper(1)\n"}

DATA = Path(__file__).parents[4] / "shared" / "data" / "humaneval.jsonl"


@pytest.mark.parametrize(
    "completion",
    [
        BODY,
        "return len(items)",
        f"{BODY}\ndef check(candidate):\n    pass\n",
        f"{BODY}\nprint(count([]))\n",
        f"```python\n{WHOLE}```",
        f"Here it is:\n\n```python\n{PROMPT}{BODY}```\nIt works because ...",
        f"First a wrong try:\n```\ndef count(items):\n    return 0\n```\nBetter:\n```py\n{WHOLE}```",
        f"```python\n{WHOLE}```\nUse it as\n```python\ncount([1])\n```",
        f"```python\n{WHOLE}",  # cut at the token limit
        f"  ```python\n{WHOLE}  ```",
        "```python\nn = 0\nfor item in items:\n    n += 1\nreturn n\n```",
        WHOLE,
        f"<think>\n```python\ndef count(items):\n    return 0\n```\n</think>\n```python\n{WHOLE}```",
    ],
)
def test_the_program_is_found_in_a_completion(completion: str) -> None:
    assert humaneval(completion, ROW) == 1.0


@pytest.mark.parametrize(
    "completion", ["", "I cannot do this.", "    return 0\n", "```python\ndef other(items):\n    return 2\n```", "\x00", "\ud800"]
)
def test_what_does_not_solve_it_is_wrong(completion: str) -> None:
    assert humaneval(completion, ROW) == 0.0


def test_a_body_follows_the_prompt() -> None:
    assert program_of(BODY, PROMPT, "count") == PROMPT + BODY


def test_a_row_without_tests_is_named() -> None:
    with pytest.raises(ValueError, match="a HumanEval row needs 'test'"):
        humaneval(BODY, {"prompt": PROMPT, "entry_point": "count"})


@pytest.mark.skipif(not DATA.is_file(), reason="HumanEval is not here")
def test_canonical_solutions_pass_and_mutated_ones_fail() -> None:
    rows: list[dict[str, Any]] = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()][::8]
    mutated = "    return [None, 'mutated']\n"
    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(lambda row: humaneval(row["canonical_solution"], row), rows)] == [1.0] * len(rows)
        assert [*pool.map(lambda row: humaneval(mutated, row), rows)] == [0.0] * len(rows)
