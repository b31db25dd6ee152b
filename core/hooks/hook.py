"""Hooks: code that runs when a trainer has saved a checkpoint."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from core.disk import write_json
from core.records import AXIS, CheckpointSaved, RunEnded, Tracker
from core.runs.checkpoints import step_folder


class Hook:
    """Base class of all hooks; every method does nothing.

    Hooks run on the main process only, while the others wait. An exception ends the run as failed; the checkpoint is already
    complete, and a resumed run starts by calling the failed hook again.
    """

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        """Called after the checkpoint is complete on disk; returns metrics to log on the axis `checkpoint/step`."""
        return {}

    def on_end(self, event: RunEnded) -> None:
        """Called once, after the hooks of the last checkpoint."""


def eval_file(run_dir: Path, step: int) -> Path:
    """The file for the hooks' metrics at `step`: `evals/step-NNNNNN.json`."""
    return run_dir / "evals" / f"{step_folder(run_dir, step).name}.json"


def read_evaluation(run_dir: Path, step: int) -> dict[str, float]:
    """The hooks' metrics at `step`, as written by `run_hooks`."""
    return {name: float(value) for name, value in json.loads(eval_file(run_dir, step).read_text()).items()}


def read_evaluations(run_dir: Path, steps: Iterable[int]) -> dict[int, dict[str, float]]:
    """The hooks' metrics by step, for those of `steps` whose hooks have run."""
    return {step: read_evaluation(run_dir, step) for step in steps if eval_file(run_dir, step).exists()}


def best_step(evaluations: Mapping[int, Mapping[str, float]], metric: str) -> int | None:
    """The step with the highest finite `metric`, the earliest of equals; None if there is none.

    >>> best_step({2: {"accuracy": 0.7}, 4: {"accuracy": 0.7}, 6: {"accuracy": 0.6}}, "accuracy")
    2
    """
    values = {step: metrics[metric] for step, metrics in evaluations.items() if metric in metrics}
    values = {step: value for step, value in values.items() if math.isfinite(value)}
    return max(values, key=lambda step: (values[step], -step), default=None)


def run_hooks(hooks: Sequence[Hook], event: CheckpointSaved, tracker: Tracker) -> dict[str, float]:
    """Calls every hook, merges their metrics with the trainer's, and writes them to the tracker and to `evals/`."""
    metrics = dict(event.metrics)
    was_training = event.model.training
    event.model.eval()
    for hook in hooks:
        metrics.update(hook.on_checkpoint(event))
    event.model.train(was_training)
    tracker.log(metrics, axis=AXIS, step=event.step)
    write_json(eval_file(event.run_dir, event.step), {AXIS: event.step, **metrics})
    return metrics
