"""What ends a run before its last batch: numbers that are none, a policy that ran away, a proxy that leads astray."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from core.hooks.hook import eval_file, read_evaluation
from core.records import AXIS
from core.runs.checkpoints import complete_steps, step_folder
from ppo.config import KLConfig

SCORE = "rm_score"
"""The proxy in the metrics of a checkpoint: the mean raw score of the batch before it."""
ON_POLICY = "on_policy/rm_score"
"""The same on the answers to all downstream prompts, where hooks measure it: always the same prompts, and so less noise."""


class DivergenceError(ValueError):
    """Training cannot go on; the message says why and what to change."""


def require_finite_scores(scores_B: Tensor, name: str) -> None:
    """Raises `DivergenceError` where a score of the reward `name` is NaN or infinite."""
    if rows := (~scores_B.isfinite()).nonzero().flatten().tolist():
        raise DivergenceError(
            f"{len(rows)} of {len(scores_B)} scores of {name} are not finite (the first is {scores_B[rows[0]].item()}, of episode "
            f"{rows[0]}). Score these prompts with it alone, and load a model in fp32 or bf16 if it is in fp16."
        )


def require_kl_below(kl: float, config: KLConfig) -> None:
    """Raises `DivergenceError` where the mean KL of a batch, in nats per completion, is not finite or above `config.stop`."""
    if not math.isfinite(kl):
        raise DivergenceError(f"the KL to the reference is {kl}. Lower optim.lr or epochs, or load the policy with model.dtype=fp32.")
    if config.stop is not None and kl > config.stop:
        raise DivergenceError(
            f"the KL to the reference is {kl:.4g} nats per completion, above kl.stop={config.stop}. Raise kl.beta or set kl.target, lower "
            "optim.lr or epochs, or raise kl.stop."
        )


def require_finite_step(loss: float, grad_norm: float) -> None:
    """Raises `DivergenceError` where the loss or the gradient norm of an optimiser step is NaN or infinite."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise DivergenceError(
            f"the loss is {loss} and the gradient norm {grad_norm}. Lower optim.lr, epochs or optim.max_grad_norm, set dual_clip=3, "
            "or train with model.dtype=fp32."
        )


def require_measured(metric: str, metrics: Mapping[str, float], hooks: Sequence[object]) -> None:
    """Raises `ValueError` where the metric that the best checkpoint is chosen by is none of those that the hooks and the trainer give."""
    if hooks and metric not in metrics:
        names = ", ".join(sorted(name for name in metrics if "seconds/" not in name and name != AXIS))
        raise ValueError(f"best_metric={metric} is not measured; choose one of {names}, or add the hook or task that measures it.")


def ended(run_dir: Path, step: int, why: str) -> str:
    """The message with which batch `step` ends a run: why, and which checkpoints are left."""
    steps = complete_steps(run_dir)
    left = f"The last complete checkpoint is {step_folder(run_dir, steps[-1])}" if steps else "No checkpoint was written yet"
    if (run_dir / "best").is_symlink():
        left += f", the best {(run_dir / 'best').readlink().name}"
    return f"PPO ended in batch {step}: {why} {left}."


def over_optimised(values: Sequence[float], scores: Sequence[float], num_falls: int) -> bool:
    """Whether the last `num_falls` values each fell below the one before, while the score rose over the same checkpoints.

    `values` are what is wanted (a downstream metric) and `scores` the proxy's, both by checkpoint. This is what
    over-optimisation looks like (Gao et al. 2023, "Scaling Laws for Reward Model Overoptimization").
    """
    if len(values) <= num_falls:
        return False
    last = values[-num_falls - 1 :]
    return all(later < earlier for earlier, later in pairwise(last)) and scores[-1] > scores[-num_falls - 1]


def why_stop(run_dir: Path, step: int, metric: str, num_falls: int | None) -> str:
    """Why the run should end after the checkpoint of `step`, else empty; read from the evaluations on disk, the untrained policy's first.

    Raises `ValueError` where no hook measures `metric`.
    """
    if num_falls is None:
        return ""
    steps = [s for s in (0, *complete_steps(run_dir)) if s <= step and eval_file(run_dir, s).exists()]
    evaluations = [read_evaluation(run_dir, s) for s in steps]
    if missing := [s for s, evaluation in zip(steps, evaluations, strict=True) if metric not in evaluation]:
        raise ValueError(
            f"stop_after_falls={num_falls} watches best_metric={metric}, which no hook measured at step {missing[0]}; add the hook or "
            f"task, or choose one of {', '.join(sorted(evaluations[0]))}."
        )
    values = [evaluation[metric] for evaluation in evaluations]
    score = ON_POLICY if all(ON_POLICY in evaluation for evaluation in evaluations) else SCORE
    scores = [evaluation[score] for evaluation in evaluations]
    if not over_optimised(values, scores, num_falls):
        return ""
    begin = -num_falls - 1
    return (
        f"{metric} fell at {num_falls} checkpoints in a row, from {values[begin]:.4g} to {values[-1]:.4g}, while {score} rose from "
        f"{scores[begin]:.4g} to {scores[-1]:.4g} (stop_after_falls={num_falls})"
    )
