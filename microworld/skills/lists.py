"""Precise instruction following: a list with a given number, kind, case and last word."""

import random

from microworld.lexicon import CATEGORIES, NAMES, NUMBERS, Facts
from microworld.skills.base import Question, Reference, Skill


def question(rng: random.Random, facts: Facts) -> Question:
    category, number, case = rng.choice(sorted(CATEGORIES)), rng.choice(sorted(NUMBERS)), rng.choice(("capital", "small"))
    end = rng.choice([w for c in sorted(CATEGORIES) if c != category for w in CATEGORIES[c]])
    name = rng.choice(NAMES)
    text = f"Write {name} {NUMBERS[number]} {category}s in {case} letters, then the word {end}."
    reference = {"skill": "lists", "category": category, "number": number, "case": case, "end": end}
    return Question(skill="lists", prompt=text, key=(category, str(number), case, end), reference=reference)


def _answer(rng: random.Random, category: str, number: int, case: str, end: str) -> str:
    text = " ".join((*rng.sample(CATEGORIES[category], number), end))
    return text.upper() if case == "capital" else text


def right(rng: random.Random, reference: Reference) -> str:
    return _answer(rng, *(reference[k] for k in ("category", "number", "case", "end")))


def wrong(rng: random.Random, reference: Reference) -> str:
    """Breaks one of the four instructions."""
    category, number, case, end = (reference[k] for k in ("category", "number", "case", "end"))
    match rng.choice(("category", "number", "case", "end")):
        case "category":
            category = rng.choice([c for c in sorted(CATEGORIES) if c != category and end not in CATEGORIES[c]])
        case "number":
            number = rng.choice((number - 1, number + 1))
        case "case":
            case = "small" if case == "capital" else "capital"
        case _:
            end = rng.choice([w for c in sorted(CATEGORIES) if c != category for w in CATEGORIES[c] if w != end])
    return _answer(rng, category, number, case, end)


def verify(text: str, reference: Reference) -> bool:
    """Exactly the number of different members of the category, then the last word, all in the case asked for."""
    *listed, end = text.split(" ") if text else [""]
    members = CATEGORIES[reference["category"]]
    cased = str.upper if reference["case"] == "capital" else str.lower
    return (
        len(listed) == len(set(listed)) == reference["number"]
        and all(word.lower() in members for word in listed)
        and end.lower() == reference["end"]
        and text == cased(text)
    )


SKILL = Skill(name="lists", domain="Precise IF", question=question, right=right, wrong=wrong, verify=verify)
