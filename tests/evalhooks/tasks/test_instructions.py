"""IFEval and IFBench: lm-eval's own verdicts, without a download, and the same at every checkpoint."""

import copy
import importlib
import random
from typing import Any

import pytest

from core.functions import SkippedError
from evalhooks.tasks.verifiers import ifbench, ifeval, ifeval_loose
from tests.evalhooks.tasks.test_answers import rows_of

# Importing the verifiers' package imports half of the data tools, whose own warnings are not ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MADE = [
    "I am here. Dr. Smith went home. He was tired, e.g. of it.\n\n* one\n* two\n\n***\n\nP.S. Bye.",
    "<<title>>\n\nTHIS IS ALL IN CAPITALS. YES.\n\n[name] [place] [date]",
]


def test_ifeval_equals_lm_evals_verifiers_on_its_prompts_with_made_responses() -> None:
    official = importlib.import_module("lm_eval.tasks.ifeval.utils").process_results
    passed = 0
    for number, row in enumerate(rows_of("ifeval")[::3]):
        text = [*MADE, row["prompt"]][number % 3]
        if row["key"] == 1129:
            continue  # it counts "!" as a letter, for which both draw one at random
        wanted = official(copy.deepcopy(row), [text])
        found = ifeval(text, row), ifeval_loose(text, row)
        assert found == (float(wanted["prompt_level_strict_acc"]), float(wanted["prompt_level_loose_acc"])), row["key"]
        passed += int(found[0])
    assert passed > 15  # or equality would say little


def test_ifbench_accepts_and_refuses_sample_responses_and_skips_what_needs_a_download() -> None:
    responses = {row["prompt"].strip(): row["response"] for row in rows_of("ifbench_sample_responses")}
    verdicts: dict[object, int] = {}
    perturbed = 0.0
    for row in rows_of("ifbench")[::3]:
        if row["prompt"].strip() not in responses:
            continue
        text = responses[row["prompt"].strip()]
        try:
            found: object = ifbench(text, row)
            perturbed += ifbench(f"{text[: len(text) // 4]} Unasked, 7 of them.", row) if found else 0
        except SkippedError as error:
            found = "nltk" in str(error)
        verdicts[found] = verdicts.get(found, 0) + 1
    assert set(verdicts) <= {0.0, 1.0}
    assert verdicts[1.0] > 10
    assert verdicts[0.0] > 30
    assert perturbed < 0.75 * verdicts[1.0]


def test_sentences_end_where_punkt_says() -> None:
    row: dict[str, Any] = {
        "prompt": "Write.",
        "instruction_id_list": ["length_constraints:number_sentences"],
        "kwargs": [{"relation": "less than", "num_sentences": 3, "unused": None}],
    }
    assert ifeval("Dr. Smith met Mr. Jones at 5 p.m. yesterday. They talked.", row) == 1.0
    assert ifeval("One. Two. Three.", row) == 0.0


def test_verdicts_leave_the_random_numbers_of_others_alone() -> None:
    row: dict[str, Any] = {"key": 1, "prompt": "Write.", "instruction_id_list": ["keywords:letter_frequency"], "kwargs": [{"letter": "!"}]}
    random.seed(3)
    state = random.getstate()
    assert len({ifeval("a b c d e f g h i j k l m", row) for _ in range(20)}) == 1
    assert random.getstate() == state


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "instruction_id_list": ["a:b"], "kwargs": [{}]}, "the instruction 'a:b', which if-verifiable does not know"),
        ({"prompt": "a", "instruction_id_list": [], "kwargs": []}, "has no instructions"),
        ({"prompt": "a", "kwargs": []}, "needs 'instruction_id_list'"),
    ],
)
def test_a_row_that_cannot_be_checked_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ifeval("text", row)
