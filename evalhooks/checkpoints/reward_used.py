"""The benchmark of the reward that a policy is trained with, which no checkpoint changes."""

from collections.abc import Callable, Sequence

from core.process.world import World, alone
from core.records import BenchmarkRow, Scorer, num_truncated
from core.scorers.ensemble import EnsembleScorer
from core.scorers.implicit import ImplicitRewardScorer
from core.scorers.reward_model import RewardModelScorer
from core.scorers.shared import SharedScorer
from core.scorers.vllm import VLLMScorer
from core.scorers.weighted import Term, WeightedScorer
from evalhooks.rewardbench import v2
from evalhooks.rewardbench.finite import remark
from evalhooks.rewardbench.rows import score_rows

MODELS = (RewardModelScorer, EnsembleScorer, ImplicitRewardScorer, VLLMScorer)
"""Scorers that are reward models, and so worth benchmarking; programs and judges are not."""


def static_scores(
    scorer: Scorer, rows: Sequence[BenchmarkRow], say: Callable[[str], None] = print, *, world: World | None = None
) -> dict[str, float]:
    """RewardBench 2 scores of the reward that PPO maximises: `reward/rewardbench2/{overall,factuality,...}`.

    In a sum of several rewards, each reward model has its own scores, `reward/<name>/rewardbench2/...`; programs and judges
    have none. Empty without rows or reward models. Scores all rows on every call, so keep the result. With `world`, all its processes
    call it, each to score its share.
    """
    world = world or alone()
    terms = scorer.terms if isinstance(scorer, WeightedScorer) else (Term(name="reward", scorer=scorer),)
    models = [term for term in terms if isinstance(term.scorer, MODELS)] if rows else []
    metrics: dict[str, float] = {}
    for term in models:
        place = "reward" if len(terms) == 1 else f"reward/{term.name}"
        before = num_truncated(term.scorer) or 0
        result = v2.scores(score_rows(rows, SharedScorer(term.scorer, world)).rows)
        for line in (result.reason, remark(result.not_finite, len(rows))):
            if line:
                say(f"RewardBench 2 of the reward {term.name}: {line}")
        if cut := int(sum(world.all_sum([(num_truncated(term.scorer) or 0) - before]))):
            say(f"{cut} benchmark texts were cut to the length limit of the reward {term.name}, at the end of the answer")
        metrics |= {f"{place}/{key}": value for key, value in v2.metrics(result).items()}
    return metrics
