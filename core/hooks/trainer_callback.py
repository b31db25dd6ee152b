"""The hooks inside other trainers. A module of its own: transformers' trainers take seconds to import."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from core.hooks.hook import Hook, RunParts, run_hooks
from core.records import CheckpointSaved, RunEnded, Tracker


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where another trainer's checkpoint lies and how its steps are counted; `metrics` are the trainer's own at this step.

    Hooks run only if the checkpoint is `due`, not if it was saved merely to guard against loss.

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
    """Where transformers' and TRL's trainers save: `checkpoint-N` in `output_dir`, with N counting optimiser updates."""
    run_dir = Path(args.output_dir or ".")
    path = run_dir / f"checkpoint-{state.global_step}"
    return Place(step=state.global_step, num_steps=state.max_steps, path=path, run_dir=run_dir)


class HookCallback(TrainerCallback):
    """Runs hooks in any transformers or TRL trainer: `trainer.add_callback(HookCallback(hooks, tracker, tokenizer))`.

    On the main process, hooks run whenever the trainer saves and are told when it ends. For a peft model they get the base
    model with the adapter injected. `place` locates the checkpoint, for loops that keep their checkpoints elsewhere; `then` is
    called after the hooks with the step and all their metrics. With `parts`, which makes them for an event, all processes take part.
    """

    def __init__(
        self,
        hooks: Sequence[Hook],
        tracker: Tracker,
        tokenizer: PreTrainedTokenizerBase,
        *,
        place: Callable[[TrainingArguments, TrainerState], Place] = transformers_place,
        then: Callable[[int, Mapping[str, float]], None] | None = None,
        parts: Callable[[CheckpointSaved], RunParts] | None = None,
    ) -> None:
        self.hooks, self.tracker, self.tokenizer = hooks, tracker, tokenizer
        self.place, self.then, self.parts = place, then, parts

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if (self.parts is None and not state.is_world_process_zero) or args.output_dir is None:
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
        metrics = run_hooks(self.hooks, event, self.tracker, parts=self.parts(event) if self.parts else None)
        if self.then is not None:
            self.then(place.step, metrics)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or args.output_dir is None:
            return
        place = self.place(args, state)
        for hook in self.hooks:
            hook.on_end(RunEnded(run_dir=place.run_dir, step=place.step))
