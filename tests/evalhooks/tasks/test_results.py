"""What is skipped is neither right nor wrong, and whoever reads an average knows what it is over."""

from collections.abc import Mapping
from typing import Any

import pytest

from core.data.thinking import answer_of
from core.functions import SkippedError
from core.records import Completion, Prompt, user
from core.scorers.verifier import VerifierScorer
from evalhooks.tasks.results import downstream
from evalhooks.tasks.task import Judged, judged, together


def sure(text: str, reference: Mapping[str, Any]) -> float:
    """Knows only texts of one letter."""
    if len(text) > 1:
        raise SkippedError("too long")
    return float(text == reference["answer"])


PROMPTS = [Prompt(id=str(place), dialogue=user(f"{place}?"), reference={"answer": "a"}) for place in range(3)]


def answers(*rows: str) -> list[list[Completion]]:
    return [[Completion(text=text, token_ids=(1,), finished=True) for text in row.split()] for row in rows]


def test_a_mean_is_over_what_could_be_judged() -> None:
    found = judged(sure, PROMPTS, answers("a b", "a aa", "bb bb"))
    assert found.correct == [[1.0, 0.0], [1.0, None], [None, None]]
    assert (found.mean, found.num_skipped, found.reasons) == (0.75, 3, {"too long": 3})  # of 1/2 and 1
    both = together([found, found])
    assert (both.mean, both.num_skipped, both.reasons) == (0.75, 6, {"too long": 6})


def test_the_average_names_what_it_is_not_over() -> None:
    whole = Judged(correct=[[1.0], [0.0]], reasons={})
    part = Judged(correct=[[1.0], [None]], reasons={"too long": 1})
    none = Judged(correct=[[None]], reasons={"no judge": 1})
    said = list[str]()
    metrics = downstream(
        {"whole": whole, "part": part, "none": none},
        {"chosen": 0.3},
        ["whole", "part", "none", "chosen", "sharded"],
        lambda line, _: said.append(line),
    )
    assert metrics == {
        "downstream/whole": 0.5,
        "downstream/part": 1.0,
        "downstream/chosen": 0.3,
        "downstream/average": pytest.approx(0.6),
        "downstream_se/whole": pytest.approx(0.5),  # of 1 and 0: a deviation of 0.5 ** 0.5, over the root of two prompts
        "skipped/part": 0.5,
        "skipped/none": 1.0,
        "skipped/sharded": 1.0,
    }
    assert said == [
        "part: 1 answers were skipped, and none of them counts as wrong: too long (1)",
        "none: 1 answers were skipped, and none of them counts as wrong: no judge (1)",
        "downstream/average is over 3 of 5 tasks, without none, sharded, which was skipped",
    ]


def test_the_average_has_a_standard_error_where_all_of_its_tasks_have_one() -> None:
    mixed = Judged(correct=[[1.0, 0.0], [1.0, None], [None]], reasons={})  # prompts of 0.5 and 1: an error of 0.5 ** 1.5 / 2 ** 0.5 = 0.25
    right = Judged(correct=[[1.0]] * 8, reasons={})
    metrics = downstream({"mixed": mixed, "right": right}, {}, ["mixed", "right"], lambda *_: None)
    assert metrics["downstream_se/mixed"] == pytest.approx(0.25)
    assert metrics["downstream_se/right"] == pytest.approx(0.083, abs=5e-4)  # half of Wilson's interval, 0.676 to 1, over 1.96
    assert metrics["downstream_se/average"] == pytest.approx((0.25**2 + metrics["downstream_se/right"] ** 2) ** 0.5 / 2)
    assert "downstream_se/average" not in downstream({"mixed": mixed}, {"choices": 0.5}, ["mixed", "choices"], lambda *_: None)


def test_with_nothing_judged_there_is_no_average() -> None:
    assert downstream({"none": Judged(correct=[[None]], reasons={"no": 1})}, {}, ["none"], lambda line, _: None) == {"skipped/none": 1.0}


def test_a_task_sees_the_answer_without_reasoning() -> None:
    assert judged(sure, PROMPTS[:1], answers("<think>b</think>a <think>a")).correct == [[1.0, 0.0]]
    assert answer_of("<think>b</think>a") == "a"


def test_as_a_reward_a_skipped_answer_gets_the_mean_of_the_others() -> None:
    scorer = VerifierScorer(sure, {prompt.dialogue: prompt.reference for prompt in PROMPTS})
    assert scorer.score([prompt.dialogue for prompt in PROMPTS], [["a", "b", "cc"], ["cc"], ["a"]]) == [[1.0, 0.0, 0.5], [0.0], [1.0]]
    assert scorer.num_skipped == 2
