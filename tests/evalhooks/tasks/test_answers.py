"""The verifiers of MATH, BIG-Bench Hard and PopQA: every reference is accepted, and a perturbed one refused."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from core.functions import SkippedError
from evalhooks.tasks.verifiers import bbh, gsm8k, math, popqa, preferred

DATA = Path(__file__).parents[4] / "shared" / "data"  # beside the checkout, where there is one


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a file of real data; skips the test where it is not here."""
    file = DATA / f"{name}.jsonl"
    if not file.is_file():
        pytest.skip(f"{name} is not here")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def changed(answer: str) -> str:
    """An answer with its first number raised by one, or another word."""
    return re.sub(r"\d+", lambda found: str(int(found[0]) + 1), answer, count=1) if re.search(r"\d", answer) else r"\text{Nobody}"


def test_every_solution_of_gsm8k_is_accepted_and_every_perturbed_one_refused() -> None:
    rows = rows_of("gsm8k_test")
    assert [gsm8k(row["answer"], row) for row in rows] == [1.0] * len(rows)
    perturbed = [f"{head}#### {tail.strip().replace(',', '')}1" for head, _, tail in (row["answer"].partition("####") for row in rows)]
    assert [gsm8k(text, row) for text, row in zip(perturbed, rows, strict=True)] == [0.0] * len(rows)


def test_every_solution_of_math_is_accepted_and_a_perturbed_answer_refused() -> None:
    rows = rows_of("math500")
    assert [math(row["solution"], row) for row in rows] == [1.0] * len(rows)
    assert [math(row["solution"], {"solution": row["solution"]}) for row in rows[:20]] == [1.0] * 20
    some = rows[::50]
    assert [math(f"So it is $\\boxed{{{changed(row['answer'])}}}$.", row) for row in some] == [0.0] * len(some)


@pytest.mark.parametrize(
    ("completion", "answer", "verdict"),
    [
        (r"\boxed{\frac12}", r"\dfrac{1}{2}", 1.0),
        (r"\boxed{0.5}", r"\frac{1}{2}", 1.0),
        (r"\boxed{x = 5}", "5", 1.0),
        (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", 1.0),
        (r"\boxed{(2, 1)}", "(1, 2)", 0.0),
        (r"\boxed{ \text{Evelyn} }", r"\text{Evelyn}", 1.0),
        ("The answer is $p - q$.", "p - q", 1.0),
        (r"\boxed{3}, no: \boxed{4}", "4", 1.0),
        (r"<think>\boxed{4}</think> So \boxed{5}.", "4", 0.0),
        (r"<think>\boxed{4}", "4", 0.0),
        ("", "4", 0.0),
        (r"\boxed{", "4", 0.0),
        (r"\boxed{\frac{1}{}", "4", 0.0),
    ],
)
def test_equal_answers_of_math_are_equal_however_they_are_written(completion: str, answer: str, verdict: float) -> None:
    assert math(completion, {"answer": answer}) == verdict


def test_what_math_verify_does_not_finish_is_skipped_and_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalhooks.tasks.math_answers._SECONDS", 1)
    with pytest.raises(SkippedError, match="math-verify found no verdict"):
        math(r"\boxed{\sum_{n=1}^{99999999} \frac{1}{n^{3}} \sin(n)}", {"answer": r"\int_0^1 x^x dx"})


def test_math_is_judged_in_any_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(math, r"\boxed{0.5}", {"answer": r"\frac{1}{2}"}).result() == 1.0


FORMS = [
    "So the answer is {}.",
    "{}",
    "**Answer:** {}",
    "The answer is **{}**.",
    "It follows.\n\n{}",
    "The answer is: {}",
    'the answer is "{}".',
]


def test_every_target_of_bbh_is_accepted_in_the_forms_of_models_and_another_one_refused() -> None:
    rows = rows_of("bbh")[::13]
    for form in FORMS:
        assert [row["target"] for row in rows if bbh(form.format(row["target"]), row) != 1.0] == [], form
    others = {task: {row["target"] for row in rows if row["task"] == task} for task in {row["task"] for row in rows}}
    accepted = [(other, row) for row in rows for other in others[row["task"]] - {row["target"]} if bbh(FORMS[0].format(other), row)]
    assert accepted == []


@pytest.mark.parametrize(
    ("completion", "target", "verdict"),
    [
        ("The answer is (B) The owl is the rightmost.", "(B)", 1.0),
        ("The answer is B.", "(B)", 1.0),
        ("The answer is B) owl", "(B)", 1.0),
        ("The answer is Both of them.", "(B)", 0.0),
        (r"$\boxed{\text{(B)}}$", "(B)", 1.0),
        ("The answer is yes, since it holds.", "Yes", 1.0),
        ("The answer is not valid.", "valid", 0.0),
        ("The argument is invalid, so the answer is invalid", "valid", 0.0),
        ("The answer is 1,024.", "1024", 1.0),
        ("The answer is -50.", "-50", 1.0),
        ("The answer is 50.", "-50", 0.0),
        ("So the answer is: barn damp dot", "barn damp dot", 1.0),
        ("So the answer is: barn, damp, dot.", "barn damp dot", 1.0),
        ("So the answer is: damp barn dot", "barn damp dot", 0.0),
        ("So the answer is: ] ] >", "] ] >", 1.0),
        ("So the answer is: ] >", "] ] >", 0.0),
        ("", "Yes", 0.0),
        ("<think>The answer is Yes.", "Yes", 0.0),
    ],
)
def test_short_answers(completion: str, target: str, verdict: float) -> None:
    assert bbh(completion, {"target": target}) == verdict


def test_popqa_takes_any_alias_as_whole_words() -> None:
    row = {"possible_answers": '["politician", "political leader", "The Beatles"]'}
    assert popqa("He was a Political  Leader!", row) == 1.0
    assert popqa("the beatles", row) == 1.0
    assert popqa("He wrote on geopoliticians.", row) == 0.0
    assert popqa("", row) == 0.0
    assert popqa("a plum", {"possible_answers": ["Plum"]}) == 1.0
    with pytest.raises(ValueError, match="possible_answers of a PopQA row is"):
        popqa("", {"possible_answers": "[]"})


def test_without_a_judge_a_preference_is_skipped() -> None:
    with pytest.raises(SkippedError, match="no judge is named"):
        preferred("An answer.", {"instruction": "Ask.", "output": "Another."})


def test_a_reference_that_cannot_be_read_makes_no_answer_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalhooks.tasks.math_answers._math_verify", lambda: (lambda text, **_: [], None, TimeoutError))
    with pytest.raises(SkippedError, match="reads nothing in the reference '12'"):
        math("It is 13.", {"answer": "12"})
