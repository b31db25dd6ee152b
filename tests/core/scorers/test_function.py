"""A user's function scores, and what it returns is held to the shape of the question."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from core.records import Message, user
from core.scorers.function import FunctionScorer

HERE = __name__
PROMPTS = [user("Name a fruit."), (Message(role="system", content="Be brief."), *user("And a tool."))]
COMPLETIONS = [["plum", "a lamp"], ["saw"]]
answer: Any = None
"""What the function under test returns."""
seen: list[Any] = []


def by_length(prompts: list[list[dict[str, str]]], completions: list[list[str]]) -> list[list[float]]:
    seen.append((prompts, completions))
    return [[float(len(text)) for text in answers] for answers in completions]


def fixed(prompts: list[list[dict[str, str]]], completions: list[list[str]]) -> Any:
    return answer


def scored(value: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The scores where the function returns `value`."""
    monkeypatch.setattr(f"{HERE}.answer", value)
    return FunctionScorer(f"{HERE}:fixed").score(PROMPTS, COMPLETIONS)


def test_the_function_gets_plain_messages_and_lists_once_and_its_numbers_are_the_scores() -> None:
    seen.clear()
    assert FunctionScorer(f"{HERE}:by_length").score(PROMPTS, [tuple(answers) for answers in COMPLETIONS]) == [[4.0, 6.0], [3.0]]
    fruit = [{"role": "user", "content": "Name a fruit."}]
    tool = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And a tool."}]
    assert seen == [([fruit, tool], [["plum", "a lamp"], ["saw"]])]


def test_a_prompt_without_completions_keeps_its_place() -> None:
    assert FunctionScorer(f"{HERE}:by_length").score(PROMPTS, [[], ["saw"]]) == [[], [3.0]]


def test_numbers_of_any_kind_become_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scored([[1, True], (np.float32(0.5),)], monkeypatch)
    assert scores == [[1.0, 1.0], [0.5]]
    assert scored([np.array([1.0, 2.0]), torch.tensor([0.5], dtype=torch.bfloat16)], monkeypatch) == [[1.0, 2.0], [0.5]]
    assert scored([[torch.tensor(1.0, requires_grad=True), np.array(2)], [Fraction(1, 2)]], monkeypatch) == [[1.0, 2.0], [0.5]]
    assert {type(score) for row in scores for score in row} == {float}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "fixed returned NoneType; it must return a list of 2 lists, one per prompt"),
        ("ab", "fixed returned str; it must return a list of 2 lists, one per prompt"),
        (np.zeros((2, 2)), "fixed returned 2 entries for prompt 1; it must return 1 numbers"),
        (np.zeros(()), "fixed returned float; it must return a list of 2 lists"),
        ([[1.0, 2.0]], "fixed returned 1 entries; it must return 2 lists, one per prompt"),
        ([1.0, 2.0], "fixed returned float for prompt 0; it must return a list of 2 numbers, one per completion"),
        ([[1.0, 2.0], [3.0, 4.0]], "fixed returned 2 entries for prompt 1; it must return 1 numbers, one per completion"),
    ],
)
def test_another_shape_is_refused_with_the_shape_it_must_have(value: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=message):
        scored(value, monkeypatch)


@pytest.mark.parametrize("value", ["good", None, float("nan"), float("inf"), 1j, torch.tensor(torch.nan), np.array([1.0]), 10**400])
def test_what_is_no_finite_number_is_refused_with_the_prompt(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"fixed returned .* for prompt 1, which is not a finite number; fix the function"):
        scored([[1.0, 2.0], [value]], monkeypatch)


def breaks_on_tools(prompts: list[list[dict[str, str]]], completions: list[list[str]]) -> list[list[float]]:
    return [
        [{"fruit": 1.0}[turns[-1]["content"].split()[-1].strip(".")] for _ in answers]
        for turns, answers in zip(prompts, completions, strict=True)
    ]


def test_what_the_function_raises_is_told_with_its_line_and_the_prompt_it_fails_on() -> None:
    line = breaks_on_tools.__code__.co_firstlineno + 2
    with pytest.raises(
        ValueError, match=rf"breaks_on_tools, scoring answers to the prompt 'And a tool.': KeyError: 'tool' \(.*test_function.py:{line}\)"
    ):
        FunctionScorer(f"{HERE}:breaks_on_tools").score(PROMPTS, COMPLETIONS)


def test_a_function_that_cannot_be_loaded_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="the reward function 'brevity' must read module:function"):
        FunctionScorer("brevity")
