"""Hooks: code that runs when a trainer has saved a checkpoint."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.disk import BrokenFileError, read_json, remove, write_json
from core.records import AXIS, CheckpointSaved, RunEnded, Tracker
from core.runs.checkpoints import STEP_FOLDER, step_folder
from core.runs.samples import forget_samples
from core.runs.tracking import METRICS, forget_later, read_metrics


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


_MEND = "remove it; the command that made the run then runs the hooks of this step again"


def eval_file(run_dir: Path, step: int) -> Path:
    """The file for the hooks' metrics at `step`: `evals/step-NNNNNN.json`."""
    return run_dir / "evals" / f"{step_folder(run_dir, step).name}.json"


def read_evaluation(run_dir: Path, step: int) -> dict[str, float]:
    """The hooks' metrics at `step`, as written by `run_hooks`. Raises `BrokenFileError` if the file cannot be read."""
    file = eval_file(run_dir, step)
    return _numbers(read_json(file, remedy=_MEND), file)


def read_evaluations(run_dir: Path, steps: Iterable[int], *, skip: Callable[[str], None] | None = None) -> dict[int, dict[str, float]]:
    """The hooks' metrics by step, for those of `steps` whose hooks have run.

    Raises `BrokenFileError` for a file that cannot be read, unless it is to `skip` it: then that gets the message.
    """
    found: dict[int, dict[str, float]] = {}
    for step in steps:
        if not eval_file(run_dir, step).exists():
            continue
        try:
            found[step] = read_evaluation(run_dir, step)
        except BrokenFileError as error:
            if skip is None:
                raise
            skip(f"skipping step {step} of {run_dir.name}: {error}")
    return found


def measured_steps(run_dir: Path) -> list[int]:
    """The steps whose hooks have run, ascending; 0 is a policy before training."""
    files = (run_dir / "evals").glob("step-*.json")
    return sorted(int(match[1]) for file in files if (match := STEP_FOLDER.fullmatch(file.stem)))


def best_step(evaluations: Mapping[int, Mapping[str, float]], metric: str) -> int | None:
    """The step with the highest finite `metric`, the earliest of equals; None if there is none.

    >>> best_step({2: {"accuracy": 0.7}, 4: {"accuracy": 0.7}, 6: {"accuracy": 0.6}}, "accuracy")
    2
    """
    values = {step: metrics[metric] for step, metrics in evaluations.items() if metric in metrics}
    values = {step: value for step, value in values.items() if math.isfinite(value)}
    return max(values, key=lambda step: (values[step], -step), default=None)


def run_hooks(hooks: Sequence[Hook], event: CheckpointSaved, tracker: Tracker) -> dict[str, float]:
    """Calls every hook, merges their metrics with the trainer's, and writes them to `evals/` and then to the tracker.

    A process that is killed in between leaves metrics that `log_unlogged` finds.
    """
    metrics = dict(event.metrics)
    was_training = event.model.training
    event.model.eval()
    for hook in hooks:
        metrics.update(hook.on_checkpoint(event))
    event.model.train(was_training)
    write_json(eval_file(event.run_dir, event.step), {AXIS: event.step, **metrics})
    tracker.log(metrics, axis=AXIS, step=event.step)
    return metrics


def log_unlogged(run_dir: Path, metrics_file: Path, tracker: Tracker, say: Callable[[str], None] = print) -> None:
    """Brings `evals/` and the log of a run that is opened again to the same state, and removes what its last session left in `evals/`.

    Evaluations that are not in `metrics_file`, because a process died after they were written, go to `tracker`. A file that is
    missing or cannot be read is written anew from the log; without a line there it is removed, so that its hooks run again.
    """
    folder = run_dir / "evals"
    if not folder.is_dir():
        return
    for leftover in folder.glob("step-*.process"):  # of hooks beside training, which died with it
        remove(leftover)
    logged = read_metrics(metrics_file, axis=AXIS, say=say)
    written = {int(match[1]) for file in folder.glob("step-*.json") if (match := STEP_FOLDER.fullmatch(file.stem))}
    for step in sorted(written | logged.keys()):
        file = eval_file(run_dir, step)
        try:
            found = read_evaluation(run_dir, step)
        except (BrokenFileError, FileNotFoundError) as error:
            remove(file)
            if step in logged:
                write_json(file, {AXIS: step, **logged[step]})
            what = f"written anew from {metrics_file.name}" if step in logged else f"removed, so the hooks of step {step} run again"
            say(f"{file} {'could not be read' if isinstance(error, BrokenFileError) else 'was missing'}; {what}")
            continue
        if step not in logged:
            tracker.log({name: value for name, value in found.items() if name != AXIS}, axis=AXIS, step=step)


def rewind(run_dir: Path, step: int) -> None:
    """Takes back what a run has logged and measured after the step that it goes on from, so that nothing stands there twice.

    At step 0 a run starts over, and nothing of it is kept.
    """
    last = step or -1
    forget_later(run_dir / METRICS, last)
    forget_samples(run_dir, last)
    for file in (run_dir / "evals").glob("step-*.json"):
        if (match := STEP_FOLDER.fullmatch(file.stem)) and int(match[1]) > last:
            remove(file)


def _numbers(found: Mapping[str, Any], file: Path) -> dict[str, float]:
    """The metrics in a file of evaluations; non-finite ones are text there."""
    try:
        return {name: float(value) for name, value in found.items()}
    except (TypeError, ValueError) as error:
        raise BrokenFileError(f"{file} holds a metric that is no number ({error}); {_MEND}.") from error
