"""Hooks: what runs when a trainer has saved a checkpoint."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from core.checkpoint import step_folder, write_json
from core.records import AXIS, CheckpointSaved, RunEnded, Tracker


class Hook:
    """Base of all hooks; every method does nothing.

    Hooks run on the main process alone while the others wait. A raise ends the run as failed: the checkpoint is already
    complete, and a resumed run begins by calling the hook that failed.
    """

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        """Called after the checkpoint is complete on disk; returns metrics for the step axis of checkpoints."""
        return {}

    def on_end(self, event: RunEnded) -> None:
        """Called once after the last checkpoint's hooks."""


def eval_file(run_dir: Path, step: int) -> Path:
    """Where the metrics of the hooks at `step` are written: `evals/step-NNNNNN.json`."""
    return run_dir / "evals" / f"{step_folder(run_dir, step).name}.json"


def read_evaluation(run_dir: Path, step: int) -> dict[str, float]:
    """The metrics of the hooks at `step`, as written by `run_hooks`."""
    return {name: float(value) for name, value in json.loads(eval_file(run_dir, step).read_text()).items()}


def run_hooks(hooks: Sequence[Hook], event: CheckpointSaved, tracker: Tracker) -> dict[str, float]:
    """Calls every hook, merges what they and the trainer measured, and writes it to the tracker and to `evals/`."""
    metrics = dict(event.metrics)
    was_training = event.model.training
    event.model.eval()
    for hook in hooks:
        metrics.update(hook.on_checkpoint(event))
    event.model.train(was_training)
    tracker.log(metrics, axis=AXIS, step=event.step)
    write_json(eval_file(event.run_dir, event.step), {AXIS: event.step, **metrics})
    return metrics


class HookCallback(TrainerCallback):
    """The hooks for any trainer of transformers or TRL: `trainer.add_callback(HookCallback(hooks, tracker, tokenizer))`.

    They run whenever the trainer saves, on the main process.
    """

    def __init__(self, hooks: Sequence[Hook], tracker: Tracker, tokenizer: Any) -> None:
        self.hooks, self.tracker, self.tokenizer = hooks, tracker, tokenizer

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or args.output_dir is None:
            return
        run_dir = Path(args.output_dir)
        run_hooks(
            self.hooks,
            CheckpointSaved(
                step=state.global_step,
                num_steps=state.max_steps,
                path=run_dir / f"checkpoint-{state.global_step}",
                run_dir=run_dir,
                model=kwargs["model"],
                tokenizer=self.tokenizer,
            ),
            self.tracker,
        )
