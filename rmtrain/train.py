"""Training of one reward model: TRL's trainer with our loss, checkpoints and hooks."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from core.attention import tree_attention
from core.chat import encode_answered, pad_id, preamble
from core.checkpoint import complete_steps, latest_complete, mark_complete, step_folder
from core.config import Dtype
from core.hooks import Hook, eval_file, read_evaluation, run_hooks
from core.models import new_reward_model
from core.progress import Progress
from core.records import CheckpointSaved, Preference, RunEnded, Tracker
from core.reward import padded_rewards, tree_rewards, why_not_rewards
from core.trees import num_unique
from rmtrain.config import RewardModelConfig
from rmtrain.loss import bradley_terry_loss, preference_metrics

OPTIMIZER_FILES = ("optimizer.pt", "scheduler.pt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Where the last checkpoint lies, its step and metrics, and what became of the data."""

    checkpoint: Path
    step: int
    metrics: Mapping[str, float]
    num_pairs: int
    num_dropped: int


def train(
    config: RewardModelConfig,
    run_dir: Path,
    *,
    preferences: Sequence[Preference],
    hooks: Sequence[Hook],
    tracker: Tracker,
    progress: Progress,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Fits a Bradley-Terry reward model and calls the hooks at every checkpoint.

    Continues from the last complete checkpoint in `run_dir`, if there is one. `say` receives lines for the user.
    """
    datasets.disable_progress_bars()
    # Weights stay in fp32, where small steps are not lost; bf16 is the format of the matrix products alone.
    model, tokenizer = new_reward_model(replace(config.model, dtype=Dtype.fp32), seed=config.seed)
    rows, num_dropped = tokenize(preferences, tokenizer, config.max_length)
    if num_dropped:
        say(f"dropped {num_dropped} of {len(preferences)} pairs longer than max_length={config.max_length} tokens")

    trainer = BradleyTerryTrainer(
        config=config,
        run_dir=run_dir,
        hooks=hooks,
        tracker=tracker,
        model=model,
        args=_arguments(config, run_dir),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=_collate,
    )
    if trainer.why_padded:
        say(f"training with padding: {trainer.why_padded}")
    trainer.remove_callback(PrinterCallback)  # its lines would run through the progress bar
    trainer.add_callback(_Checkpoints(trainer, config, len(rows), progress))
    found = latest_complete(run_dir, say)
    if found is not None:
        say(f"resuming {run_dir.name} from {found.name}")
    trainer.train(resume_from_checkpoint=str(found) if found else None)

    last = complete_steps(run_dir)[-1]
    for hook in hooks:
        hook.on_end(RunEnded(run_dir=run_dir, step=last))
    return Outcome(
        checkpoint=step_folder(run_dir, last),
        step=last,
        metrics=read_evaluation(run_dir, last),
        num_pairs=len(rows),
        num_dropped=num_dropped,
    )


def tokenize(preferences: Sequence[Preference], tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[list[dict[str, Any]], int]:
    """Token ids of the pairs whose sides both fit into `max_length`, and how many did not."""
    prompts = [pair.prompt for pair in preferences]
    chosen = encode_answered(tokenizer, prompts, [pair.chosen for pair in preferences])
    rejected = encode_answered(tokenizer, prompts, [pair.rejected for pair in preferences])
    has_margin = any(pair.margin is not None for pair in preferences)
    rows: list[dict[str, Any]] = []
    for pair, chosen_ids, rejected_ids in zip(preferences, chosen, rejected, strict=True):
        if max(len(chosen_ids), len(rejected_ids)) <= max_length:
            row: dict[str, Any] = {"chosen_ids": chosen_ids, "rejected_ids": rejected_ids}
            rows.append(row | {"margin": float(pair.margin or 0.0)} if has_margin else row)
    if not rows:
        raise ValueError(f"No pair fits into max_length={max_length} tokens; raise max_length.")
    return rows, len(preferences) - len(rows)


def checkpoint_steps(num_steps: int, num_checkpoints: int) -> list[int]:
    """Evenly spaced steps of which the last is the end of training.

    >>> checkpoint_steps(10, 3)
    [4, 7, 10]
    """
    return sorted({math.ceil(num_steps * (i + 1) / num_checkpoints) for i in range(num_checkpoints)})


def _arguments(config: RewardModelConfig, run_dir: Path) -> RewardConfig:
    optim = config.optim
    processes = max(1, torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1)
    return RewardConfig(
        output_dir=str(run_dir / "checkpoints" / ".writing"),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.batch_size // config.micro_batch_size // processes,
        learning_rate=optim.lr,
        lr_scheduler_type="constant_with_warmup" if optim.schedule == "constant" else str(optim.schedule),
        warmup_steps=optim.warmup_ratio,
        weight_decay=optim.weight_decay,
        adam_epsilon=optim.adam_eps,
        max_grad_norm=optim.max_grad_norm,
        center_rewards_coefficient=config.center or None,
        max_length=None,
        activation_checkpointing=config.gradient_checkpointing,
        bf16=config.model.dtype == Dtype.bf16,
        save_strategy="no",  # our own callback decides when
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=config.seed,
        data_seed=config.seed,
    )


def _collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch as groups of token rows, (chosen, rejected) each, with the margins where there are any."""
    batch: dict[str, Any] = {"pairs": [(example["chosen_ids"], example["rejected_ids"]) for example in examples]}
    if "margin" in examples[0]:
        batch["margin"] = torch.tensor([example["margin"] for example in examples])
    return batch


class BradleyTerryTrainer(RewardTrainer):
    """TRL's trainer with our loss and logging; a checkpoint is moved into place, marked complete and given to the hooks.

    A pair goes through the model as one prompt tree; padded instead where `why_padded` gives a reason.
    """

    def __init__(self, *, config: RewardModelConfig, run_dir: Path, hooks: Sequence[Hook], tracker: Tracker, **trl: Any) -> None:
        super().__init__(**trl)
        self.config, self.run_dir, self.hooks, self.tracker = config, run_dir, hooks, tracker
        self._batches: list[dict[str, float]] = []
        self._num_weights = trl["model"].num_parameters(exclude_embeddings=True)
        self._preamble = preamble(trl["processing_class"])
        several = "a step over several processes goes through their wrapped models" if self.accelerator.num_processes > 1 else ""
        self.why_padded = several or why_not_rewards(trl["model"], config.max_length)

    def training_step(self, model: Any, *inputs: Any, **options: Any) -> torch.Tensor:
        # The backward pass too: under gradient checkpointing it runs the layers again.
        with nullcontext() if self.why_padded else tree_attention(model):
            return super().training_step(model, *inputs, **options)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        pairs = inputs["pairs"]
        if self.why_padded:
            rows = [row for pair in pairs for row in pair]
            rewards_R = padded_rewards(model, rows, pad_id(self.processing_class))  # type: ignore[arg-type]
        else:
            # The wrapper that casts to bf16 is around the model's own forward pass, which trees go past.
            with tree_attention(model), self.accelerator.autocast():
                rewards_R = tree_rewards(model, pairs, self._preamble)
        chosen_B, rejected_B = rewards_R.view(-1, 2).unbind(1)
        config = self.config
        loss = bradley_terry_loss(
            chosen_B, rejected_B, margin_B=inputs.get("margin"), label_smoothing=config.label_smoothing, center=config.center
        )
        self._batches.append(preference_metrics(chosen_B, rejected_B))
        return (loss, rewards_R) if return_outputs else loss

    def floating_point_ops(self, inputs: Any) -> int:
        """6 per weight and token (Kaplan et al. 2020, section 2.1) of the batch's unique tokens."""
        return 6 * self._num_weights * sum(map(num_unique, inputs["pairs"]))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Sends the trainer's figures and the means since the last call to `train/*`."""
        if self._batches:
            logs = logs | {key: sum(batch[key] for batch in self._batches) / len(self._batches) for key in self._batches[0]}

        self._batches.clear()
        if self.is_world_process_zero():
            self.tracker.log({f"train/{key}": float(value) for key, value in logs.items()}, axis="train/step", step=self.state.global_step)
        super(RewardTrainer, self).log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super(RewardTrainer, self)._save_checkpoint(model, trial)
        step = self.state.global_step
        if self.is_world_process_zero():
            target = step_folder(self.run_dir, step)
            shutil.rmtree(target, ignore_errors=True)  # a torn one of an earlier attempt
            (Path(str(self.args.output_dir)) / f"checkpoint-{step}").rename(target)
            mark_complete(target)
            for earlier in complete_steps(self.run_dir):
                if earlier < step:  # only the newest is ever resumed from
                    for name in OPTIMIZER_FILES:
                        (step_folder(self.run_dir, earlier) / name).unlink(missing_ok=True)
            self.run_hooks(step)
        self.accelerator.wait_for_everyone()

    def run_hooks(self, step: int) -> None:
        """Calls the hooks for the checkpoint of `step` with the weights in memory."""
        event = CheckpointSaved(
            step=step,
            num_steps=self.state.max_steps,
            path=step_folder(self.run_dir, step),
            run_dir=self.run_dir,
            model=self.accelerator.unwrap_model(self.model),
            tokenizer=self.processing_class,  # type: ignore[arg-type]
        )
        with self.accelerator.autocast():
            run_hooks(self.hooks, event, self.tracker)


class _Checkpoints(TrainerCallback):
    """Decides when to save, shows progress, and calls hooks that a torn run had left out."""

    def __init__(self, trainer: BradleyTerryTrainer, config: RewardModelConfig, num_pairs: int, progress: Progress) -> None:
        self.trainer, self.config, self.progress = trainer, config, progress
        self.num_pairs = num_pairs
        self.steps: list[int] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps = checkpoint_steps(state.max_steps, self.config.num_checkpoints)
        self.progress.start("training", state.max_steps)
        self.progress.advance(state.global_step)
        if state.global_step and not eval_file(self.trainer.run_dir, state.global_step).exists():
            self.trainer.run_hooks(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.advance()
        control.should_save = state.global_step in self.steps

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.finish()
