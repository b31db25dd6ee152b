"""The best checkpoint so far, and when to stop because the reward no longer guides the policy."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from core.hooks.hook import eval_file, read_evaluation
from core.process.world import World
from core.records import AXIS
from core.runs.checkpoints import checkpoint_steps, complete_steps, point_best
from ppo.config import PPOConfig
from ppo.metrics import Metric
from ppo.state import PPOState

ON_POLICY = "on_policy/rm_score"
"""The reward's mean on the answers to all downstream prompts, where hooks measure it: the same prompts every time, so less noise."""


def checkpoint_batches(config: PPOConfig) -> list[int]:
    """The batches after which a checkpoint is due and the hooks run, spread evenly over the run; the last is always one."""
    return checkpoint_steps(config.num_batches, num_checkpoints=config.num_checkpoints, to_step=round)


def take_evaluation(
    state: PPOState, metrics: Mapping[str, float], config: PPOConfig, *, run_dir: Path, hooks: Sequence[object], world: World
) -> None:
    """Records in `state` whether the checkpoint at `state.step` is the best so far, and why the run should stop there if it should.

    Points `best` of the run at a new best checkpoint. All processes call it. Raises `ValueError` where no hook measures
    `config.best_metric`.
    """
    require_measured(config.best_metric, metrics, hooks)
    if state.consider(state.step, metrics.get(config.best_metric)) and state.step and world.is_main:
        point_best(run_dir, state.step)
    reason = world.from_main(lambda: stop_reason(run_dir, state.step, config.best_metric, config.stop_after_falls))
    state.stopped_because = reason or ""


def require_measured(metric: str, metrics: Mapping[str, float], hooks: Sequence[object]) -> None:
    """Raises `ValueError` where neither hooks nor trainer measured the metric that the best checkpoint is chosen by."""
    if hooks and metric not in metrics:
        names = ", ".join(sorted(name for name in metrics if "seconds/" not in name and name != AXIS))
        raise ValueError(f"best_metric={metric} is not measured; choose one of {names}, or add the hook or task that measures it.")


def over_optimised(values: Sequence[float], scores: Sequence[float], num_falls: int) -> bool:
    """Whether the last `num_falls` values each fell below the one before, while the score rose over the same checkpoints.

    `values` are what is wanted (a downstream metric) and `scores` the proxy's, both by checkpoint. This is what
    over-optimisation looks like (Gao et al. 2023, "Scaling Laws for Reward Model Overoptimization").
    """
    if len(values) <= num_falls:
        return False
    last = values[-num_falls - 1 :]
    return all(later < earlier for earlier, later in pairwise(last)) and scores[-1] > scores[-num_falls - 1]


def stop_reason(run_dir: Path, step: int, metric: str, num_falls: int | None) -> str | None:
    """Why the run should stop after the checkpoint of `step`, if it should, read from the evaluations on disk.

    Raises `ValueError` where no hook measures `metric`.
    """
    if num_falls is None:
        return None
    steps = [s for s in (0, *complete_steps(run_dir)) if s <= step and eval_file(run_dir, s).exists()]
    evaluations = [read_evaluation(run_dir, s) for s in steps]
    if missing := [s for s, evaluation in zip(steps, evaluations, strict=True) if metric not in evaluation]:
        raise ValueError(
            f"stop_after_falls={num_falls} watches best_metric={metric}, which no hook measured at step {missing[0]}; add the hook or "
            f"task, or choose one of {', '.join(sorted(evaluations[0]))}."
        )
    values = [evaluation[metric] for evaluation in evaluations]
    score = ON_POLICY if all(ON_POLICY in evaluation for evaluation in evaluations) else Metric.RM_SCORE
    scores = [evaluation[score] for evaluation in evaluations]
    if not over_optimised(values, scores, num_falls):
        return None
    begin = -num_falls - 1
    return (
        f"{metric} fell at {num_falls} checkpoints in a row, from {values[begin]:.4g} to {values[-1]:.4g}, while {score} rose from "
        f"{scores[begin]:.4g} to {scores[-1]:.4g} (stop_after_falls={num_falls})"
    )
