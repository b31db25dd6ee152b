"""Whether a reward model fits the policy that PPO trains against it.

The RewardBench 2 paper (Malik et al. 2025, section 5.2 and table 8) finds that reward models which lead the benchmark, or
best-of-N, can be of little use in PPO if they were trained from another model than the policy's, or on other prompts than
PPO's. What is not known is called unknown and gives no warning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict

from core.models.origin import Origin, named_sources


class Answer(StrEnum):
    """An answer that may not be known."""

    yes = "yes"
    no = "no"
    unknown = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table8Means:
    """Means over one group of reward models in table 8 of the paper, in points of 100: the benchmark, and the policy after each use.

    >>> OTHER_LINEAGE.ppo
    55.6
    """

    rewardbench2: float
    ppo: float
    best_of_n: float

    def __str__(self) -> str:
        return f"{self.rewardbench2} on RewardBench 2, {self.best_of_n} after best-of-16 and {self.ppo} after PPO"


START = 54.1
"""The policy of table 8 before PPO (section 5.2)."""


FITTING = Table8Means(rewardbench2=60.6, ppo=60.1, best_of_n=51.9)
"""Nine reward models of the policy's lineage, trained on the prompts of PPO among others (numbers 1 to 9)."""


OTHER_LINEAGE = Table8Means(rewardbench2=71.4, ppo=55.6, best_of_n=55.6)
"""Three reward models of another lineage (13 to 15)."""


OTHER_PROMPTS = Table8Means(rewardbench2=66.2, ppo=57.8, best_of_n=49.6)
"""Two reward models of the policy's lineage on other prompts (16 and 17)."""


class ModelLineage(TypedDict):
    """What a model was trained from, and what says so."""

    base: str
    told_by: str


class RewardLineage(ModelLineage):
    """What a reward model was trained from and on, and the answers about it as text."""

    sources: list[str]
    same_lineage: str
    in_distribution: str


class LineageSummary(TypedDict):
    """What a run's record says of how its reward models fit; `lineage_summary` makes it."""

    policy: ModelLineage
    prompts: list[str]
    rewards: dict[str, RewardLineage]
    same_lineage: str
    in_distribution: str
    warnings: list[str]


def same_lineage(policy: Origin, reward: Origin) -> Answer:
    """Whether the reward model and the policy share a line: the base of one is the other's, or among the other's ancestors.

    A common ancestor alone is not enough: it may be just the pretrained model behind both.
    """
    if policy.base in reward.families or reward.base in policy.families:
        return Answer.yes
    if not policy.evidence or not reward.evidence:
        return Answer.unknown
    # A folder without a family name may hold a copy of any model trained from its parent.
    if (policy.is_unnamed and {*policy.ancestors[:1]} & {*reward.families}) or (
        reward.is_unnamed and {*reward.ancestors[:1]} & {*policy.families}
    ):
        return Answer.unknown
    return Answer.no


def in_distribution(reward: Origin, prompts: frozenset[str]) -> Answer:
    """Whether PPO's prompts share a source with the reward model's training data; "no" only if both have names to compare."""
    if reward.sources & prompts:
        return Answer.yes
    return Answer.no if named_sources(reward.sources) and named_sources(prompts) else Answer.unknown


def warnings_of(policy: Origin, reward: Origin, prompts: frozenset[str], *, name: str = "the reward model") -> list[str]:
    """One warning for each way in which the reward model is known not to fit PPO with this policy and these `prompt_sources`.

    `name` is what the warnings call the reward model. Empty if everything fits or is unknown.
    """
    warnings: list[str] = []
    if same_lineage(policy, reward) == Answer.no:
        warnings.append(
            f"{name} grew from {reward.name}, the policy from {policy.name}. In the RewardBench 2 paper (table 8, means) reward models of "
            f"another lineage than the policy's gave {OTHER_LINEAGE}, those of its lineage on its prompts {FITTING}; the policy had "
            f"{START} before. A better benchmark score did not help PPO: train one from the policy's own lineage by the same recipe."
        )
    if in_distribution(reward, prompts) == Answer.no:
        warnings.append(
            f"{name} was trained on {_shown(reward.sources)}, and PPO's prompts are none of these but {_shown(prompts)}. In the "
            f"RewardBench 2 paper (table 8, means) such reward models gave {OTHER_PROMPTS}, those trained on PPO's prompts too {FITTING}; "
            f"the policy had {START} before. Train one on preferences for these prompts, or take prompts from its training data."
        )
    return warnings


def lineage_summary(policy: Origin, rewards: Mapping[str, Origin], prompts: frozenset[str]) -> LineageSummary:
    """How the reward models, by name, fit the policy and PPO's `prompt_sources`, as plain data for the run's record.

    For each reward model and for all together, `same_lineage` and `in_distribution` are "yes", "no" or "unknown"; one "no"
    makes it "no" for all. Leave verifiers and functions out: they are trained on nothing.
    """
    entries = {name: _reward_entry(policy, reward, prompts) for name, reward in rewards.items()}
    lone = len(rewards) == 1
    names = {name: "the reward model" if lone else f"the reward model {name}" for name in rewards}
    return {
        "policy": _entry(policy),
        "prompts": sorted(named_sources(prompts)),
        "rewards": entries,
        "same_lineage": _all([entry["same_lineage"] for entry in entries.values()]),
        "in_distribution": _all([entry["in_distribution"] for entry in entries.values()]),
        "warnings": [line for name, reward in rewards.items() for line in warnings_of(policy, reward, prompts, name=names[name])],
    }


def _reward_entry(policy: Origin, reward: Origin, prompts: frozenset[str]) -> RewardLineage:
    return {
        **_entry(reward),
        "sources": sorted(named_sources(reward.sources)),
        "same_lineage": str(same_lineage(policy, reward)),
        "in_distribution": str(in_distribution(reward, prompts)),
    }


def _entry(origin: Origin) -> ModelLineage:
    return {"base": origin.name, "told_by": origin.evidence or "nothing"}


def _all(answers: list[str]) -> str:
    """The worst of several answers, unknown without any."""
    return next((str(answer) for answer in (Answer.no, Answer.unknown, Answer.yes) if answer in answers), str(Answer.unknown))


def _shown(sources: frozenset[str]) -> str:
    return ", ".join(sorted(named_sources(sources)))
