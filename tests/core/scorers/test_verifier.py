"""A verifier's scores by prompt and answer, and what is no score."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from core.records import Message, Prompt, user
from core.scorers.verifier import VerifierScorer, correctness, try_verifier

SUM, LONG = user("What is 2 plus 3?"), (Message(role="system", content="Be brief."), *user("Name a fruit. " * 20))
REFERENCES = {SUM: {"answer": "5"}, LONG: {"answer": "plum"}}


def exact(completion: str, reference: Mapping[str, Any]) -> float:
    return 1.0 if completion == reference["answer"] else -0.5


def test_each_answer_is_judged_by_the_reference_of_its_own_prompt() -> None:
    scorer = VerifierScorer(exact, REFERENCES)
    assert scorer.score([LONG, SUM], [["plum", "5"], ["5"]]) == [[1.0, -0.5], [1.0]]
    assert scorer.score([SUM, LONG], [[], ["5"]]) == [[], [-0.5]]


def test_numbers_of_any_kind_become_floats() -> None:
    values: list[tuple[Any, float]] = [
        *((True, 1.0), (False, 0.0), (np.bool_(True), 1.0), (2, 2.0), (Fraction(1, 2), 0.5), (Decimal("0.5"), 0.5)),
        *((np.float32(0.5), 0.5), (np.int64(1), 1.0), (np.array(0.5), 0.5)),
        *((torch.tensor(0.5), 0.5), (torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True), 0.5), (torch.tensor(True), 1.0)),
    ]
    for value, score in values:
        [[found]] = VerifierScorer(lambda completion, reference, value=value: value, REFERENCES).score([SUM], [["5"]])
        assert (found, type(found)) == (score, float)


def test_a_prompt_without_reference_is_named_by_its_beginning() -> None:
    scorer = VerifierScorer(exact, {SUM: {"answer": "5"}}, name="my_rewards:exact")
    with pytest.raises(ValueError, match=r"my_rewards:exact has no reference for the prompt 'Name a fruit\. ") as caught:
        scorer.score([SUM, LONG], [["5"], ["plum"]])
    assert len(str(caught.value)) < 240
    assert "add a row with this prompt" in str(caught.value)


@pytest.mark.parametrize("value", [None, "1.0", math.nan, math.inf, [1.0], 1j, np.array([1.0]), np.float32("nan"), torch.tensor(torch.inf)])
def test_what_is_no_finite_number_is_refused_with_its_prompt(value: Any) -> None:
    scorer = VerifierScorer(lambda completion, reference: value, REFERENCES, name="my_rewards:exact")
    with pytest.raises(ValueError, match=r"my_rewards:exact returned .* for the prompt 'What is 2 plus 3\?', which is not a finite number"):
        scorer.score([SUM], [["5"]])


def test_what_the_verifier_refuses_is_told_with_the_prompt() -> None:
    def strict(completion: str, reference: Mapping[str, Any]) -> float:
        raise ValueError(f"no answer in {sorted(reference)}")

    with pytest.raises(ValueError, match=r"my_rewards:strict, judging an answer to the prompt 'What is 2 plus 3\?': no answer in"):
        VerifierScorer(strict, {SUM: {}}, name="my_rewards:strict").score([SUM], [["5"]])


def test_whatever_a_verifier_raises_is_told_with_its_line_and_the_prompt() -> None:
    def careless(completion: str, reference: Mapping[str, Any]) -> float:
        return float(completion)

    line = careless.__code__.co_firstlineno + 1
    with pytest.raises(ValueError, match=r"careless, judging an answer to the prompt 'What is 2 plus 3\?': could not convert") as caught:
        VerifierScorer(careless, REFERENCES, name="my_rewards:careless").score([SUM], [["five"]])
    assert re.search(rf"\(.*test_verifier.py:{line}\)$", str(caught.value))

    def looks_up(completion: str, reference: Mapping[str, Any]) -> float:
        return reference["key"]

    with pytest.raises(ValueError, match=r"looks_up, judging an answer to the prompt .*: KeyError: 'key' \("):
        correctness(looks_up, "5", Prompt(id="1", dialogue=SUM))


@pytest.mark.parametrize("value", [100.0, 1.0001, -0.5, None, math.nan])
def test_a_tasks_verifier_gives_numbers_from_0_to_1(value: Any) -> None:
    def verifier(completion: str, reference: Mapping[str, Any]) -> float:
        return value

    said = (
        rf"verifier returned {value!r:.4}.* for the prompt 'What is 2 plus 3\?'.* \(.*test_verifier.py:{verifier.__code__.co_firstlineno}\)"
    )
    with pytest.raises(ValueError, match=said):
        correctness(verifier, "5", Prompt(id="1", dialogue=SUM, reference={"answer": "5"}))


def test_a_verifier_is_tried_on_an_empty_answer_and_on_what_its_reference_holds() -> None:
    seen: list[str] = []

    def percent(completion: str, reference: Mapping[str, Any]) -> float:
        seen.append(completion)
        return 100.0 * (completion == str(reference["answer"]))

    prompt = Prompt(id="1", dialogue=SUM, reference={"prompt": "What is 2 plus 3?", "hints": ["add"], "answer": 5})
    with pytest.raises(ValueError, match=r"percent returned 100\.0 for the prompt 'What is 2 plus 3"):
        try_verifier(percent, prompt)
    assert seen == ["", "5"]
