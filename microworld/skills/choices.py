"""Ties: questions with several right answers (tied), and similar ones with exactly one (ref)."""

import random

from microworld.lexicon import CATEGORIES, NAMES, Facts
from microworld.skills.base import Question, Reference, Skill, article

MEMBERS = tuple(word for category in CATEGORIES.values() for word in category)


def question(rng: random.Random, facts: Facts) -> Question:
    return tied(rng) if rng.random() < 0.5 else single(rng)


def tied(rng: random.Random) -> Question:
    """Asks for any member of a category except two: six right answers."""
    category, name = rng.choice(sorted(CATEGORIES)), rng.choice(NAMES)
    first, second = rng.sample(CATEGORIES[category], 2)
    text = f"{name} wants {article(category)}, but neither {first} nor {second}."
    answers = [m for m in CATEGORIES[category] if m not in (first, second)]
    reference = {"skill": "choices", "kind": "tied", "answers": answers, "excluded": [first, second]}
    return Question(skill="choices", prompt=text, key=(name, *sorted((first, second))), reference=reference)


def single(rng: random.Random) -> Question:
    """Asks which of two things belongs to a category: one right answer."""
    category, name = rng.choice(sorted(CATEGORIES)), rng.choice(NAMES)
    answer = rng.choice(CATEGORIES[category])
    other = rng.choice([m for m in MEMBERS if m not in CATEGORIES[category]])
    offered = rng.sample((answer, other), 2)
    text = f"{name} wants {article(category)}, so is it {offered[0]} or {offered[1]}?"
    reference = {"skill": "choices", "kind": "ref", "answers": [answer], "excluded": [other]}
    return Question(skill="choices", prompt=text, key=(name, *sorted((answer, other))), reference=reference)


def answer_with(member: str) -> str:
    return f"The answer is {member}."


def right(rng: random.Random, reference: Reference) -> str:
    return answer_with(rng.choice(reference["answers"]))


def wrong(rng: random.Random, reference: Reference) -> str:
    """Mostly what the question ruled out, otherwise something from another category."""
    if rng.random() < 0.6:
        return answer_with(rng.choice(reference["excluded"]))
    ruled_out = (*reference["answers"], *reference["excluded"])
    category = next(members for members in CATEGORIES.values() if reference["answers"][0] in members)
    return answer_with(rng.choice([m for m in MEMBERS if m not in ruled_out and m not in category]))


def verify(text: str, reference: Reference) -> bool:
    """Answers with one of the right things, and nothing else."""
    return text in map(answer_with, reference["answers"])


SKILL = Skill(name="choices", domain="Ties", question=question, right=right, wrong=wrong, verify=verify)
