"""The hooks inside other trainers. A module of its own: what transformers' trainers import takes seconds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from core.hooks.hook import Hook, run_hooks
from core.records import CheckpointSaved, RunEnded, Tracker


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a checkpoint of another trainer lies, and how its steps are counted; `metrics` are the trainer's own at this step.

    No hooks run on a checkpoint that is not `due`: one saved against loss alone.

    >>> Place(step=2, num_steps=4, path=Path("run/checkpoint-2"), run_dir=Path("run")).metrics
    {}
    """

    step: int
    num_steps: int
    path: Path
    run_dir: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    due: bool = True


def transformers_place(args: TrainingArguments, state: TrainerState) -> Place:
    """Where the trainers of transformers and TRL save: `checkpoint-N` in `output_dir`, N counting optimiser updates."""
    run_dir = Path(args.output_dir or ".")
    path = run_dir / f"checkpoint-{state.global_step}"
    return Place(step=state.global_step, num_steps=state.max_steps, path=path, run_dir=run_dir)


class HookCallback(TrainerCallback):
    """The hooks for any trainer of transformers or TRL: `trainer.add_callback(HookCallback(hooks, tracker, tokenizer))`.

    They run whenever the trainer saves, and hear when it has ended, on the main process. Of a peft model they see the
    model that its adapter lies in. `place` says where the checkpoint lies, for a loop that keeps its checkpoints elsewhere;
    `then` is called after the hooks with the step and all that they measured.
    """

    def __init__(
        self,
        hooks: Sequence[Hook],
        tracker: Tracker,
        tokenizer: Any,
        *,
        place: Callable[[TrainingArguments, TrainerState], Place] = transformers_place,
        then: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> None:
        self.hooks, self.tracker, self.tokenizer = hooks, tracker, tokenizer
        self.place, self.then = place, then

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or args.output_dir is None:
            return
        place, model = self.place(args, state), kwargs["model"]
        if not place.due:
            return
        event = CheckpointSaved(
            step=place.step,
            num_steps=place.num_steps,
            path=place.path,
            run_dir=place.run_dir,
            model=model.get_base_model() if is_peft_model(model) else model,
            tokenizer=self.tokenizer,
            metrics=place.metrics,
        )
        metrics = run_hooks(self.hooks, event, self.tracker)
        if self.then is not None:
            self.then(place.step, metrics)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or args.output_dir is None:
            return
        place = self.place(args, state)
        for hook in self.hooks:
            hook.on_end(RunEnded(run_dir=place.run_dir, step=place.step))
