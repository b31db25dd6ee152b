"""Features of completions, on texts as people and models write them."""

import math

import pytest

from bon.features import FEATURES, features_of
from core.records import user

PLAIN = "The duck lays sixteen eggs, so she sells nine of them."


def of(text: str, prompt: str = "How many eggs does she sell, and why is that the answer?") -> dict[str, float]:
    return {name: value for name, value in features_of(text, user(prompt)).items() if value and name != "length"}


def test_a_plain_sentence_has_length_alone() -> None:
    assert of(PLAIN) == {}
    assert features_of(PLAIN, user("?"))["length"] == math.log(1 + len(PLAIN))
    assert all(feature("", "") == 0 for feature in FEATURES.values())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# Title\n**Bold** and `code`:\n| a | b |", {"markdown": math.log(5)}),
        ("- one\n* two\n3. three\n4) four", {"lists": math.log(5)}),
        ("2 - 3 is -1, and 4.5 is more.", {}),  # neither a list nor markdown
        ("I'm sorry, but I can't help with that.", {"refusal": 1.0}),
        ("I cannot provide instructions for this.", {"refusal": 1.0}),
        ("As an AI, I have no eggs.", {"refusal": 1.0}),
        ("I can\u2019t assist with that.", {"refusal": 1.0}),
        ("I can't wait to tell you about this duck and the eggs that she sells.", {}),
        ("It might be nine, but perhaps ten.", {"hedging": math.log(3)}),
        ("You're absolutely right! Great question.", {"agreement": math.log(3)}),
        ("The right answer is nine.", {}),
        ("nine eggs a day nine eggs a day", {"repetition": 1 / 3}),  # six runs of three words, four of them different
    ],
)
def test_what_a_text_looks_like_is_counted(text: str, found: dict[str, float]) -> None:
    assert of(text) == pytest.approx(found)


def test_a_switch_of_language_is_one_of_script_or_of_common_words() -> None:
    assert of("这是九个鸡蛋") == {"language_switch": 1.0}
    assert of("nine 九 nine") == {"language_switch": pytest.approx(1 / 9)}
    assert of("Die Antwort ist neun, und das ist nicht zu wenig.") == {"language_switch": 1.0}
    assert of("这是九个鸡蛋", prompt="她卖多少鸡蛋") == {}
    assert of("42", prompt="她卖多少鸡蛋") == {}  # numbers have no script
