"""A verifier's scores by prompt and answer, and what is no score."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from core.records import Message, user
from core.scorers.verifier import VerifierScorer

SUM, LONG = user("What is 2 plus 3?"), (Message(role="system", content="Be brief."), *user("Name a fruit. " * 20))
REFERENCES = {SUM: {"answer": "5"}, LONG: {"answer": "plum"}}


def exact(completion: str, reference: Mapping[str, Any]) -> float:
    return 1.0 if completion == reference["answer"] else -0.5


def test_each_answer_is_judged_by_the_reference_of_its_own_prompt() -> None:
    scorer = VerifierScorer(exact, REFERENCES)
    assert scorer.score([LONG, SUM], [["plum", "5"], ["5"]]) == [[1.0, -0.5], [1.0]]
    assert scorer.score([SUM, LONG], [[], ["5"]]) == [[], [-0.5]]


def test_numbers_of_any_kind_become_floats() -> None:
    values: list[tuple[Any, float]] = [(True, 1.0), (np.float32(0.5), 0.5), (2, 2.0)]
    for value, score in values:
        [[found]] = VerifierScorer(lambda completion, reference, value=value: value, REFERENCES).score([SUM], [["5"]])
        assert (found, type(found)) == (score, float)


def test_a_prompt_without_reference_is_named_by_its_beginning() -> None:
    scorer = VerifierScorer(exact, {SUM: {"answer": "5"}}, name="my_rewards:exact")
    with pytest.raises(ValueError, match=r"my_rewards:exact has no reference for the prompt 'Name a fruit\. ") as caught:
        scorer.score([SUM, LONG], [["5"], ["plum"]])
    assert len(str(caught.value)) < 240
    assert "add a row with this prompt" in str(caught.value)


@pytest.mark.parametrize("value", [None, "1.0", math.nan, math.inf, [1.0]])
def test_what_is_no_finite_number_is_refused_with_its_prompt(value: Any) -> None:
    scorer = VerifierScorer(lambda completion, reference: value, REFERENCES, name="my_rewards:exact")
    with pytest.raises(ValueError, match=r"my_rewards:exact returned .* for the prompt 'What is 2 plus 3\?', which is not a finite number"):
        scorer.score([SUM], [["5"]])


def test_what_the_verifier_refuses_is_told_with_the_prompt() -> None:
    def strict(completion: str, reference: Mapping[str, Any]) -> float:
        raise ValueError(f"no answer in {sorted(reference)}")

    with pytest.raises(ValueError, match=r"my_rewards:strict, judging an answer to the prompt 'What is 2 plus 3\?': no answer in"):
        VerifierScorer(strict, {SUM: {}}, name="my_rewards:strict").score([SUM], [["5"]])
