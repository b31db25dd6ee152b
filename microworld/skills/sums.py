"""Math: one-step word problems of addition and subtraction."""

import random

from microworld.lexicon import NAMES, THINGS, Facts
from microworld.skills.base import Question, Reference, Skill

MAX_FIRST, MAX_SECOND = 9, 4


def question(rng: random.Random, facts: Facts) -> Question:
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    first, second = rng.randint(1, MAX_FIRST), rng.randint(1, MAX_SECOND)
    if first > second and rng.random() < 0.5:
        change, answer = f"gives {second} away", first - second
    else:
        change, answer = f"finds {second} more", first + second
    text = f"{name} has {first} {things} and {change}. How many {things} does {name} have now?"
    reference = {"skill": "sums", "name": name, "things": things, "first": first, "second": second, "answer": answer}
    return Question(skill="sums", prompt=text, key=(name, things, str(first), change), reference=reference)


def _sentence(reference: Reference, number: int) -> str:
    return f"{reference['name']} has {number} {reference['things']} now."


def right(rng: random.Random, reference: Reference) -> str:
    return _sentence(reference, reference["answer"])


def wrong(rng: random.Random, reference: Reference) -> str:
    """Off by one, two or three, or the other operation."""
    first, second, answer = reference["first"], reference["second"], reference["answer"]
    numbers = {answer + step for step in (-3, -2, -1, 1, 2, 3)} | {first + second, abs(first - second), first, second}
    return _sentence(reference, rng.choice(sorted(n for n in numbers if n >= 0 and n != answer)))


def verify(text: str, reference: Reference) -> bool:
    """States who has how many of what, and nothing else."""
    return text == _sentence(reference, reference["answer"])


SKILL = Skill(name="sums", domain="Math", question=question, right=right, wrong=wrong, verify=verify)
