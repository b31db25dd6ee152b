"""The answer that a completion votes with."""

from core.data.thinking import answer_of as without_reasoning
from evalhooks.tasks.final_number import final_number


def answer_of(text: str) -> str:
    """The number that a completion ends in after its reasoning, or where it has none its text without case and spare white space.

    >>> answer_of("So she has 3 + 4 = 7.0 eggs."), answer_of(" Paris\\n")
    ('7', 'paris')
    """
    text = without_reasoning(text)
    number = final_number(text)
    return " ".join(text.casefold().split()) if number is None else str(number)
