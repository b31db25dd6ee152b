"""Focus: an answer about exactly what was asked."""

import random

from microworld.lexicon import CATEGORIES, NAMES, PLACES, Facts
from microworld.skills.base import Question, Reference, Skill

OBJECTS = tuple(word for category in ("tool", "garment", "instrument") for word in CATEGORIES[category])


def question(rng: random.Random, facts: Facts) -> Question:
    name, thing, place = rng.choice(NAMES), rng.choice(OBJECTS), rng.choice(PLACES)
    text = rng.choice((f"Tell {name} about the {thing} in the {place}.", f"Write to {name} that the {thing} is in the {place}."))
    reference = {"skill": "topics", "name": name, "thing": thing, "place": place}
    return Question(skill="topics", prompt=text, key=(name, thing, place), reference=reference)


def _sentence(name: str, thing: str, place: str) -> str:
    return f"Dear {name}, the {thing} is in the {place}."


def right(rng: random.Random, reference: Reference) -> str:
    return _sentence(reference["name"], reference["thing"], reference["place"])


def wrong(rng: random.Random, reference: Reference) -> str:
    """Drifts to another object, place or addressee."""
    name, thing, place = reference["name"], reference["thing"], reference["place"]
    match rng.choice(("name", "thing", "place")):
        case "name":
            name = rng.choice([n for n in NAMES if n != name])
        case "thing":
            thing = rng.choice([t for t in OBJECTS if t != thing])
        case _:
            place = rng.choice([p for p in PLACES if p != place])
    return _sentence(name, thing, place)


def verify(text: str, reference: Reference) -> bool:
    """Addresses the person and speaks of the object and the place asked about, and of no other."""
    return text == _sentence(reference["name"], reference["thing"], reference["place"])


SKILL = Skill(name="topics", domain="Focus", question=question, right=right, wrong=wrong, verify=verify)
