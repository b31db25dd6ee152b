"""Whether the pick's stated probability is right, and what it loses against taking the highest score: `python -m benchmarks.pick`.

Each simulated study has reward models with a true skill, a benchmark that sees it with noise, and a downstream result that follows
it, with offsets by lineage; some of them have been used before, and one of the others is to be picked.

What the pick saves against the highest score is taken in expectation over the results, given the scores and the truth of the simulation:
the results themselves scatter by several points, under which a saving of a tenth of a point would not be seen in thousands of studies.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalhooks.analysis.pick import Candidate, pick


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What the studies of a row of the table are like."""

    name: str
    lineages: bool
    unequal_errors: bool


WORLDS = (
    World(name="equal errors, one lineage", lineages=False, unequal_errors=False),
    World(name="unequal errors", lineages=False, unequal_errors=True),
    World(name="several lineages", lineages=True, unequal_errors=False),
    World(name="both", lineages=True, unequal_errors=True),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What was said and what was so in one study; regrets in points of the result."""

    probability: float
    right: bool
    regret: float
    highest_regret: float
    saved: float
    """How much more the pick is expected to give than the highest score."""
    possible: float
    """The same of whoever knows the parameters of the simulation: no pick saves more on average."""


def study(world: World, rng: np.random.Generator, *, seed: int = 0) -> Outcome:
    """One simulated study: 8 to 20 reward models used before, 4 to 10 to pick from."""
    num_past, num_new = int(rng.integers(8, 21)), int(rng.integers(4, 11))
    n = num_past + num_new
    spread, relation = rng.uniform(3, 10), rng.uniform(0.4, 0.98)
    skill = rng.normal(60, spread, n)
    error = rng.uniform(0.2, 1.2, n) * spread if world.unequal_errors else np.full(n, rng.uniform(0.1, 0.8) * spread)
    group = rng.integers(3, size=n) if world.lineages else np.zeros(n, dtype=int)
    scale = rng.uniform(2, 8)
    offset = rng.normal(0, scale * rng.uniform(0.3, 1.2), 3)
    result = 50 + scale * (relation * (skill - 60) / spread + np.sqrt(1 - relation**2) * rng.standard_normal(n)) + offset[group]
    score = skill + error * rng.standard_normal(n)
    noise = 0.2 * scale
    past = [
        Candidate(
            score=score[k], error=error[k], group=str(group[k]), measured=result[k] + noise * rng.standard_normal(), measured_error=noise
        )
        for k in range(num_past)
    ]
    new = [Candidate(score=score[k], error=error[k], group=str(group[k])) for k in range(num_past, n)]
    truth = result[num_past:]
    found = pick(new, past=past, seed=seed)
    # E[result | score]: the skill seen through its error is drawn towards the mean of all, by 1 / (1 + error^2 / spread^2).
    kept = 1 / (1 + (error / spread) ** 2)
    expected = (50 + scale * relation * kept * (score - 60) / spread + offset[group])[num_past:]
    highest = int(np.argmax(score[num_past:]))
    return Outcome(
        probability=found.probability,
        right=found.index == int(truth.argmax()),
        regret=float(truth.max() - truth[found.index]),
        highest_regret=float(truth.max() - truth[highest]),
        saved=float(expected[found.index] - expected[highest]),
        possible=float(expected.max() - expected[highest]),
    )


def calibration_error(outcomes: Sequence[Outcome], *, bins: int = 5) -> float:
    """The mean distance between stated and true share over bins of equally many studies, by stated probability."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.probability)
    parts = [part for part in np.array_split(np.arange(len(ordered)), bins) if len(part)]
    gaps = [
        abs(float(np.mean([ordered[k].probability for k in part])) - float(np.mean([ordered[k].right for k in part]))) * len(part)
        for part in parts
    ]
    return sum(gaps) / len(ordered)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies, a quarter of each kind")
    count = parser.parse_args().studies
    rng = np.random.default_rng(0)
    everything: list[Outcome] = []
    for world in WORLDS:
        outcomes = [study(world, rng, seed=number) for number in range(count // len(WORLDS))]
        everything += outcomes
        _print(world.name, outcomes)
    _print("all", everything)


def _print(name: str, outcomes: Sequence[Outcome]) -> None:
    columns = ("probability", "right", "regret", "highest_regret", "saved", "possible")
    stated, right, lost, highest, saved, possible = (np.array([float(getattr(one, key)) for one in outcomes]) for key in columns)
    print(
        f"{name:26} n {len(outcomes):5}  stated {stated.mean():.3f}  right {right.mean():.3f}  calibration error "
        f"{calibration_error(outcomes):.3f}  regret {lost.mean():.3f}  highest score {highest.mean():.3f}  expected to save "
        f"{saved.mean():+.3f} (se {saved.std() / len(saved) ** 0.5:.3f}) of {possible.mean():.3f}"
    )


if __name__ == "__main__":
    main()
