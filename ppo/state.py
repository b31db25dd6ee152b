"""Where a policy run stands: what resuming needs besides weights, the best checkpoint so far, and whether to stop early."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

from core.disk import BrokenFileError, read_json, write_json
from core.hooks.hook import best_step, read_evaluations
from core.hooks.run_context import RunContext
from core.records import AXIS
from core.runs.checkpoints import checkpoint_steps, point_best
from core.runs.retention import Keep, prune
from core.runs.warnings import RunWarning, answers_cut, prompts_dropped, untrained_is_best
from core.shares import in_points
from ppo.config import PPOConfig
from ppo.metrics import Metric
from ppo.shaping import Moments, ScoreStatistics

PROGRESS = "progress.json"
ON_POLICY = "on_policy/rm_score"
"""The mean reward on the answers to all downstream prompts, if hooks measure it: the same prompts every time, so less noise."""

UNFINISHED = "on_policy/unfinished"
"""Share of the answers to the tasks that were cut at the hooks' own token limit, if hooks measure it."""


@dataclass(kw_only=True, slots=True)
class PPOState:
    """Where a run stands: everything that the next batch depends on besides weights, optimiser and seed.

    All random draws are functions of seed and step, so no generator's state is needed. `statistics` are those of the raw
    scores, `moments` those of standardised terms of the reward, `value_scale` converts the critic's values to their units,
    `kl_coef` is the coefficient of the next batch, `metrics` are those of the last rollout. `best_step` 0 is the policy before
    training. `num_equal` is how many batches so far had answers of one score, and `warnings` are what the run has warned of,
    which outlive a record that gets lost. `stopped_because` says why the run ended before its last batch, if it did.
    """

    step: int
    statistics: ScoreStatistics
    kl_coef: float
    metrics: dict[str, float]
    moments: dict[str, tuple[float, float]] = field(default_factory=dict)
    value_scale: tuple[float, float] = (1.0, 0.0)
    best_step: int = 0
    best_value: float | None = None
    num_equal: int = 0
    warnings: list[RunWarning] = field(default_factory=list[RunWarning])
    stopped_because: str = ""


def write_state(folder: Path, state: PPOState) -> None:
    """Writes the state beside the model of a checkpoint."""
    write_json(folder / PROGRESS, asdict(state))


def read_state(folder: Path) -> PPOState:
    """What `write_state` wrote. Raises `BrokenFileError` if it cannot be read."""
    remedy = f"remove {folder}; the same command then goes on from the checkpoint before it"
    state = read_json(folder / PROGRESS, remedy=remedy)
    try:
        statistics = ScoreStatistics(**{name: Moments(**moments) for name, moments in state["statistics"].items()})
        metrics = {name: float(value) for name, value in state["metrics"].items()}
        moments = {name: (mean, std) for name, (mean, std) in state["moments"].items()}
        scale, shift = state["value_scale"]
        told = [RunWarning(**entry) for entry in state.get("warnings", [])]
        typed = {"statistics": statistics, "metrics": metrics, "moments": moments, "value_scale": (scale, shift), "warnings": told}
        return PPOState(**state | typed)
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenFileError(f"{folder / PROGRESS} holds no state of a run ({type(error).__name__}: {error}); {remedy}.") from error


def checkpoint_batches(config: PPOConfig) -> list[int]:
    """The batches after which a checkpoint is saved and the hooks run, evenly spaced; the last batch is always one of them."""
    return checkpoint_steps(config.num_batches, num_checkpoints=config.num_checkpoints, to_step=round)


def take_evaluation(state: PPOState, metrics: Mapping[str, float], config: PPOConfig, context: RunContext) -> None:
    """Records in `state` which of the checkpoints so far is the best, and whether the run should stop after that of `state.step`.

    `metrics` are the evaluation of `state.step`. If that checkpoint is the best, the run's link `best` is pointed at it. A value
    that is not finite is never the best. All processes call it. Raises `ValueError` if no hook measures `config.best_metric`.
    """
    metric = config.best_metric
    require_measured(metric, metrics, context.hooks)
    if not math.isfinite(value := metrics.get(metric, 0.0)):
        context.say(f"{metric} is {value} at step {state.step}, so this checkpoint cannot become the best")
    if UNFINISHED in metrics:
        where = f"on the tasks at step {state.step}"
        context.warn(answers_cut(1 - metrics[UNFINISHED], where=where, key="hooks.downstream.max_new_tokens"))
    steps = [step for step in (0, *checkpoint_batches(config)) if step <= state.step]
    # Read by one process for all of them: they must not see different states of the disk.
    evaluations = context.world.from_main(lambda: read_evaluations(context.dir, steps))
    best = best_step(evaluations, metric)
    if best is not None:
        state.best_step, state.best_value = best, evaluations[best][metric]
        if 0 < best == state.step and context.world.is_main:
            point_best(context.dir, best)
    if context.world.is_main:
        prune(context.dir, Keep.of(config.keep), measured=evaluations, best=state.best_step)
    state.stopped_because = stop_reason(evaluations, metric, config.stop_after_falls) or ""


def tell_dropped(context: RunContext, num: int, total: int, max_prompt_length: int) -> None:
    """Says how many prompts were too long; a warning if they are many."""
    if warning := prompts_dropped(num, total, max_prompt_length=max_prompt_length):
        context.warn(warning)
    elif num:
        context.say(f"dropped {num} of {total} prompts longer than max_prompt_length={max_prompt_length} tokens")


def tell_if_untrained_is_best(state: PPOState, config: PPOConfig, context: RunContext) -> None:
    """Warns at the end of a run if none of its checkpoints became the best."""
    if not state.best_step and context.hooks:
        context.warn(untrained_is_best(config.best_metric, state.best_value, state.metrics[Metric.KL]))


def require_measured(metric: str, metrics: Mapping[str, float], hooks: Sequence[object]) -> None:
    """Raises `ValueError` if neither hooks nor trainer measured the metric that the best checkpoint is chosen by."""
    if hooks and metric not in metrics:
        names = ", ".join(sorted(name for name in metrics if "seconds/" not in name and name != AXIS))
        raise ValueError(f"best_metric={metric} is not measured; choose one of {names}, or add the hook or task that measures it.")


def over_optimised(values: Sequence[float], scores: Sequence[float], num_falls: int) -> bool:
    """Whether each of the last `num_falls` values is below the one before, while the score rose over the same checkpoints.

    `values` are of what is wanted (a downstream metric) and `scores` of its proxy, both by checkpoint. This is what
    over-optimisation looks like (Gao et al. 2023, "Scaling Laws for Reward Model Overoptimization").
    """
    if len(values) <= num_falls:
        return False
    last = values[-num_falls - 1 :]
    return all(later < earlier for earlier, later in pairwise(last)) and scores[-1] > scores[-num_falls - 1]


def stop_reason(evaluations: Mapping[int, Mapping[str, float]], metric: str, num_falls: int | None) -> str | None:
    """Why a run with these evaluations, by step in ascending order, should stop; None if it should go on.

    Raises `ValueError` if `metric` was not measured at every step.
    """
    if num_falls is None:
        return None
    if missing := [step for step, metrics in evaluations.items() if metric not in metrics]:
        raise ValueError(
            f"stop_after_falls={num_falls} watches best_metric={metric}, which no hook measured at step {missing[0]}; add the hook or "
            f"task, or choose one of {', '.join(sorted(evaluations[missing[0]]))}."
        )
    values = [metrics[metric] for metrics in evaluations.values()]
    score = ON_POLICY if all(ON_POLICY in metrics for metrics in evaluations.values()) else Metric.RM_SCORE
    scores = [metrics[score] for metrics in evaluations.values()]
    if not over_optimised(values, scores, num_falls):
        return None
    begin = -num_falls - 1
    fell = f"from {in_points(metric, values[begin])} to {in_points(metric, values[-1])}"
    return (
        f"{metric} fell at {num_falls} checkpoints in a row, {fell}, while {score} rose from {scores[begin]:.4g} to {scores[-1]:.4g} "
        f"(stop_after_falls={num_falls})"
    )
