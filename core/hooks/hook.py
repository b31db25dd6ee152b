"""Hooks: code that runs when a trainer has saved a checkpoint."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.disk import BrokenFileError, read_json, remove, write_json
from core.progress import NoProgress, Progress
from core.records import AXIS, CheckpointSaved, Generator, RunEnded, Tracker
from core.runs.checkpoints import STEP_FOLDER, step_folder
from core.runs.samples import forget_samples
from core.runs.tracking import METRICS, forget_later, read_metrics

if TYPE_CHECKING:  # both import torch, which reading what hooks have written must not
    from transformers import PreTrainedModel

    from core.models.head import RewardPass
    from core.process.world import World


class Hook:
    """Base class of all hooks; every method does nothing.

    Hooks run on the main process only, while the others wait (but see `SharedHook`). An exception ends the run as failed; the
    checkpoint is already complete, and a resumed run starts by calling the failed hook again.
    """

    progress: Progress = NoProgress()
    """Where a hook may report how far it is. Set by the trainer for hooks in its own process."""

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        """Called after the checkpoint is complete on disk; returns metrics to log on the axis `checkpoint/step`."""
        return {}

    def on_end(self, event: RunEnded) -> None:
        """Called once, after the hooks of the last checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunParts:
    """What a run has for hooks that all its processes call: the processes, and its ways through the model.

    `reward_pass` is there if the weights of a reward model are split over the processes, which then must make every pass through it
    together. `generator` is the one that draws a policy's episodes, with its current weights (see `core.generators.shared`).
    """

    world: "World"
    reward_pass: "RewardPass | None" = None
    generator: Generator | None = None

    def told(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """`say` on the main process, and silence on the others."""
        return say if self.world.is_main else _say_nothing


class SharedHook(Hook):
    """Base class of hooks that all processes of a run call together, each to do its share; outside such a run one process does all."""

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        """As `measure`, by this process alone."""
        from core.process.world import alone

        return self.measure(event, RunParts(world=alone()))

    def measure(self, event: CheckpointSaved, parts: RunParts) -> Mapping[str, float]:
        """Called on all processes after the checkpoint is complete on disk; the main one's metrics are logged.

        Files are written and lines said on the main process alone. Of a sharded model, `event.model` holds only a part of the weights.
        """
        return {}


_MEND = "remove it; the command that made the run then runs the hooks of this step again"


def eval_file(run_dir: Path, step: int) -> Path:
    """The file for the hooks' metrics at `step`: `evals/step-NNNNNN.json`."""
    return run_dir / "evals" / f"{step_folder(run_dir, step).name}.json"


def rows_file(run_dir: Path, step: int, part: str) -> Path:
    """The file for what hooks found row by row at `step` of a part of what they measure: `evals/step-NNNNNN.rewardbench2.parquet`."""
    return eval_file(run_dir, step).with_suffix(f".{part}.parquet")


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


def run_hooks(
    hooks: Sequence[Hook],
    event: CheckpointSaved,
    tracker: Tracker,
    *,
    parts: RunParts | None = None,
    whole: "Callable[[], PreTrainedModel] | None" = None,
) -> dict[str, float]:
    """Calls every hook, merges their metrics with the trainer's, and writes them to `evals/` and then to the tracker.

    With `parts`, all processes of a run call it. `whole` makes a whole model of a sharded one, on the main process, for hooks that run
    there alone. A process that is killed before the metrics are logged leaves what `log_unlogged` finds.
    """
    if parts is None:
        from core.process.world import alone

        parts = RunParts(world=alone())
    world, metrics = parts.world, dict(event.metrics)
    was_training = event.model.training
    event.model.eval()

    @cache
    def of_whole_model() -> CheckpointSaved:
        return event if whole is None else replace(event, model=whole())

    for hook in hooks:
        metrics.update(measured(hook, event, parts, of_whole_model))
    event.model.train(was_training)

    def write() -> None:
        write_json(eval_file(event.run_dir, event.step), {AXIS: event.step, **metrics})
        tracker.log(metrics, axis=AXIS, step=event.step)

    world.from_main(write)
    return metrics


def measured(
    hook: Hook, event: CheckpointSaved, parts: RunParts, of_whole_model: Callable[[], CheckpointSaved] | None = None
) -> Mapping[str, float]:
    """What a hook measures, on all processes or on the main one, as its kind is; all of them call it.

    A subclass of a shared hook that has an `on_checkpoint` of its own is called there, on the main process. Such hooks get the event
    that `of_whole_model` makes.
    """
    if isinstance(hook, SharedHook) and type(hook).on_checkpoint is SharedHook.on_checkpoint:
        return parts.world.all_gather(lambda: hook.measure(event, parts))[0]
    return parts.world.from_main(lambda: hook.on_checkpoint(of_whole_model() if of_whole_model else event))


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


def _say_nothing(line: str) -> None:
    pass


def _numbers(found: Mapping[str, Any], file: Path) -> dict[str, float]:
    """The metrics in a file of evaluations; non-finite ones are text there."""
    try:
        return {name: float(value) for name, value in found.items()}
    except (TypeError, ValueError) as error:
        raise BrokenFileError(f"{file} holds a metric that is no number ({error}); {_MEND}.") from error
