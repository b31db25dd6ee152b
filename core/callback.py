"""The hooks inside other trainers. A module of its own: what transformers' trainers import takes seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from core.hooks import Hook, run_hooks
from core.records import CheckpointSaved, Tracker


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
