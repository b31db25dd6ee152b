"""How a study says which of its reward models are put to use, and which of its parts are done."""

from dataclasses import dataclass, field
from enum import StrEnum

from launch.rewards.choice import By, Pick


class Lineage(StrEnum):
    """Which lineage a PPO run's reward model comes from, seen from its policy."""

    any = "any"
    same = "same"
    other = "other"


@dataclass(kw_only=True)
class RewardChoice:
    """How a study picks the reward model of a PPO or best-of-N run among those it has trained."""

    by: By = By.rewardbench2
    lineage: Lineage = Lineage.any
    control: bool = False
    """Among the controls (reward models on flipped labels) instead of the others."""
    pick: Pick = Pick.best
    seed: int | None = None
    """by=random: of the draw; empty: the study's."""
    recipe: bool = False
    """Not the picked reward model itself, but one trained by its recipe from the policy's own model."""

    def __post_init__(self) -> None:
        if self.by == By.random and self.pick != Pick.best:
            raise ValueError(f"reward.pick={self.pick} does nothing with reward.by=random, which draws; leave it out.")
        if self.by != By.random and self.seed is not None:
            raise ValueError(f"reward.seed={self.seed} is of a draw; give reward.by=random too, or leave it out.")


@dataclass(kw_only=True)
class UsePlan:
    """One PPO run of a study, or one run of best-of-N on its pools."""

    reward: RewardChoice = field(default_factory=RewardChoice)
    overrides: list[str] = field(default_factory=list)
    """Overrides of the run."""


class Part(StrEnum):
    """A part of a study, by the command that does it alone."""

    rm = "rm"
    bon = "bon"
    ppo = "ppo"
