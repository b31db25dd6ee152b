"""The six skills of the world, one per domain of RewardBench 2."""

from collections.abc import Mapping
from typing import Any

from microworld.skills import choices, facts, lists, requests, sums, topics
from microworld.skills.base import Question, Skill

SKILLS: Mapping[str, Skill] = {m.SKILL.name: m.SKILL for m in (facts, lists, sums, requests, topics, choices)}


def verify(completion: str, reference: Mapping[str, Any]) -> float:
    """1.0 if the completion answers the question that `reference` belongs to, otherwise 0.0."""
    return float(SKILLS[reference["skill"]].verify(completion, reference))


__all__ = ["SKILLS", "Question", "Skill", "verify"]
