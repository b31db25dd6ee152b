"""The verifier of GSM8K on the ways in which models write numbers."""

import pytest

from evalhooks.tasks.verifiers import gsm8k

ANSWER = "Natalia sold 48 / 2 = <<48/2=24>>24 clips in May.\n#### {}"


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("#### 1,234", "1,234"),
        ("That makes 1234.", "1,234"),
        ("She earned $1,234.00 in all.", "1,234"),
        ("So she pays $5", "5"),
        ("$5.", "5"),
        ("First 3, then 4, so the answer is 5.", "5"),
        ("It is 0.50 dollars.", "0.5"),
        ("The answer is 2.50", "2.5"),
        ("The change is -3.", "-3"),
        ("The change is -$3.", "-3"),
        ("**18**\n", "18"),
        ("\\boxed{18}", "18"),
        ("18 eggs, 18%", "18"),
        ("1,000,000", "1000000"),
    ],
)
def test_the_last_number_counts_however_it_is_written(completion: str, expected: str) -> None:
    assert gsm8k(completion, {"answer": ANSWER.format(expected)}) == 1.0


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("", "5"),
        ("I do not know.", "5"),
        ("five", "5"),
        ("...", "5"),
        ("The answer is 6.", "5"),
        ("The answer is 5, not 6.", "5"),  # the last number is the answer
        ("5.1", "5"),
        ("-5", "5"),
        ("1,234", "1"),
        ("1234", "234"),
        ("24", "5"),  # a number of the solution before the marker
        ("9" * 6000, "5"),  # a policy that has lost its way
        ("1." * 3000, "5"),
    ],
)
def test_no_number_and_a_wrong_one_earn_nothing(completion: str, expected: str) -> None:
    assert gsm8k(completion, {"answer": ANSWER.format(expected)}) == 0.0


def test_the_reference_may_be_the_bare_number() -> None:
    assert gsm8k("It is 7.", {"answer": "7"}) == 1.0
    assert gsm8k("It is 7.", {"answer": 7}) == 1.0
    assert gsm8k("It is 8.", {"answer": 7}) == 0.0
