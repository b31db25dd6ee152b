"""Factuality: memorised facts about invented creatures, asked in many different sentences."""

import random

from microworld.lexicon import ADJECTIVES, FOODS, HOMES, NAMES, Facts
from microworld.skills.base import Question, Reference, Skill


def question(rng: random.Random, facts: Facts) -> Question:
    creature, adjective, name = rng.choice(sorted(facts.home)), rng.choice(ADJECTIVES), rng.choice(NAMES)
    kind = rng.choice(("home", "food"))
    if kind == "home":
        text, answer = f"Where does {name}'s {adjective} {creature} live?", facts.home[creature]
    else:
        text, answer = f"What does {name}'s {adjective} {creature} eat?", facts.food[creature]
    reference = {"skill": "facts", "kind": kind, "creature": creature, "answer": answer}
    return Question(skill="facts", prompt=text, key=(kind, creature, adjective, name), reference=reference)


def _sentence(kind: str, creature: str, value: str) -> str:
    return f"The {creature} lives in the {value}." if kind == "home" else f"The {creature} eats {value}."


def right(rng: random.Random, reference: Reference) -> str:
    return _sentence(reference["kind"], reference["creature"], reference["answer"])


def wrong(rng: random.Random, reference: Reference) -> str:
    """Another home or food; one time in eight the kind of fact is mistaken as well."""
    kind = reference["kind"]
    if rng.random() < 1 / 8:
        kind = "food" if kind == "home" else "home"
    values = HOMES if kind == "home" else FOODS
    return _sentence(kind, reference["creature"], rng.choice([v for v in values if v != reference["answer"]]))


def verify(text: str, reference: Reference) -> bool:
    """States the true fact and nothing else; a looser rule would pass its denial."""
    return text == _sentence(reference["kind"], reference["creature"], reference["answer"])


SKILL = Skill(name="facts", domain="Factuality", question=question, right=right, wrong=wrong, verify=verify)
