"""The verifiers of MATH, BIG-Bench Hard and PopQA: every reference is accepted, and a perturbed one refused."""

# pyright: reportPrivateUsage=false

import json
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from core.functions import SkippedError
from evalhooks.tasks import math_answers, math_process
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


SUM = r"\boxed{\sum_{n=1}^{99999999} \frac{1}{n^{3}} \sin(n)}"
ENDLESS = {"a sum": (SUM, r"\int_0^1 x^x dx"), "a number of ten billion digits, in C": (r"\boxed{10^{10^{10}}}", "5")}


@pytest.mark.parametrize(("completion", "answer"), ENDLESS.values(), ids=ENDLESS)
def test_what_math_verify_does_not_finish_is_skipped_and_not_wrong(monkeypatch: pytest.MonkeyPatch, completion: str, answer: str) -> None:
    monkeypatch.setattr("evalhooks.tasks.math_answers._SECONDS", 0.5)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool, pytest.raises(SkippedError, match=r"math-verify found no verdict on .* within 0\.5 s"):
        pool.submit(math, completion, {"answer": answer}).result()  # in a thread, where no alarm may be asked for
    assert time.monotonic() - began < 30
    assert math(r"\boxed{0.5}", {"answer": r"\frac{1}{2}"}) == 1.0


def test_an_answer_that_takes_too_much_memory_is_skipped_and_any_other_failure_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> Callable[..., bool]:
        def verify(*_: object, **__: object) -> bool:
            raise error

        return verify

    monkeypatch.setattr(math_process, "verify", fails(MemoryError()))
    assert math_process.verdict("$1$", "$2$") == {"skipped": "math-verify found no verdict on '$2$' in 4 GiB"}
    monkeypatch.setattr(math_process, "verify", fails(TypeError()))
    assert math_process.verdict("$1$", "$2$") == {"equal": False}
    # Of a reference it is no wrong answer: no answer would be right.
    monkeypatch.setattr(math_process, "parse", fails(MemoryError()))
    assert math_process.verdict("$1$", "$2$") == {"skipped": "math-verify found no verdict on the reference '$1$' in 4 GiB"}
    monkeypatch.setattr(math_process, "parse", fails(RecursionError()))
    assert math_process.verdict("$1$", "$2$") == {"skipped": "math-verify cannot read the reference '$1$' (RecursionError)"}


def test_without_math_verify_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_answers, "_COMPARER", math_answers._Comparer())
    monkeypatch.setattr(math_answers, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'rewardloop\[tasks\]'"):
        math(r"\boxed{0.5}", {"answer": r"\frac{1}{2}"})


def test_math_is_compared_again_after_its_process_was_killed_and_in_a_fork() -> None:
    half = {"answer": r"\frac{1}{2}"}
    assert math(r"\boxed{0.5}", half) == 1.0
    comparer = math_answers._COMPARER
    first = comparer._process
    assert first is not None
    child = os.fork()
    if child == 0:
        own = math(r"\boxed{0.5}", half) == 1.0 and math(r"\boxed{0.6}", half) == 0.0
        comparer.close()
        os._exit(0 if own else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert comparer._process is first
    assert math(r"\boxed{0.7}", half) == 0.0
    first.kill()
    first.wait()
    with pytest.raises(SkippedError, match="before its process was killed by signal 9"):
        math(r"\boxed{0.5}", half)
    assert math(r"\boxed{0.5}", half) == 1.0


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


def test_a_reference_that_cannot_be_read_makes_no_answer_wrong() -> None:
    with pytest.raises(SkippedError, match=r"reads nothing in the reference .*ldots"):
        math("It is 13.", {"answer": r"\ldots"})
