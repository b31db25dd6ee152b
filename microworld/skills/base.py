"""What a skill of the world is made of."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from microworld.lexicon import Facts

Reference = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A prompt, the combination of entities it asks about, and what its verifier needs.

    `key` decides the split: prompts with the same key are always in the same split.
    """

    skill: str
    prompt: str
    key: tuple[str, ...]
    reference: Reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Skill:
    """One skill: draws questions, answers them correctly or with a typical mistake, and verifies any answer."""

    name: str
    domain: str
    question: Callable[[random.Random, Facts], Question]
    right: Callable[[random.Random, Reference], str]
    wrong: Callable[[random.Random, Reference], str]
    verify: Callable[[str, Reference], bool]


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
