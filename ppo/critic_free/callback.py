"""What our runs add to TRL's loop: seeds, guards, metrics, checkpoints, hooks."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from core.config import Dtype
from core.hooks.hook import Hook, RunParts, SharedHook, measured
from core.hooks.run_context import RunContext
from core.hooks.trainer_callback import Place
from core.process.precision import autocast
from core.process.signals import Preemption
from core.records import CheckpointSaved, RunEnded
from core.runs.checkpoints import SaveTimer, step_folder
from ppo.config import PPOConfig
from ppo.critic_free.checkpoints import keep_checkpoint
from ppo.critic_free.names import renamed
from ppo.critic_free.reward import BatchReward
from ppo.critic_free.trainer import own_forward
from ppo.guards import DivergenceError, guarded, require_kl_below
from ppo.metrics import BatchWatch, Metric, live_note
from ppo.state import PPOState, checkpoint_batches, take_evaluation

RANK_SEED = 2_654_435_761
"""By how much the seeds of two processes differ: more than those of two batches."""


class RunCallback(TrainerCallback):
    """Keeps a run's state in step with TRL's trainer, whose steps are optimiser updates: several per rollout batch."""

    def __init__(
        self,
        config: PPOConfig,
        run: RunContext,
        state: PPOState,
        reward: BatchReward,
        preemption: Preemption,
        *,
        generation: GenerationConfig | None,
    ) -> None:
        self.config, self.run, self.state, self.reward, self.preemption = config, run, state, reward, preemption
        self.generation = generation
        """The policy's own generation config, to be saved with it."""
        self.updates, self.planned = config.updates_per_batch, checkpoint_batches(config)
        self.timer = SaveTimer(config.save_minutes)
        self.watch = BatchWatch(config, run, kl=state.metrics[Metric.KL], num_equal=state.num_equal)
        self.logs: list[Mapping[str, Any]] = []
        """What TRL has logged in this batch, one entry per update."""

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # All random draws of a batch are then functions of seed and batch, so that a resumed run repeats them.
        if state.global_step % self.updates == 0:
            # Each process has draws of its own: they may have completions of one prompt.
            set_seed((self.config.batch_seed(self.state.step + 1) + RANK_SEED * self.run.world.rank) % 2**32)

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        gradients = [parameter.grad for parameter in kwargs["model"].parameters() if parameter.grad is not None]
        # One transfer from the device; a sum is finite only if all of its terms are.
        if not torch.stack([gradient.float().abs().sum() for gradient in gradients]).sum().isfinite():
            with guarded(self.run.dir, self.config.algo, self.state.step + 1):
                raise DivergenceError("a gradient is not finite. Lower optim.lr or epochs, or train with model.dtype=fp32.")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.updates:
            return  # only the last update of a batch leaves the weights between two batches, so nothing is saved before
        self.state.step = state.global_step // self.updates
        self.run.progress.advance()
        # Summed, so that all processes act alike.
        overdue, stop = self.run.world.all_sum([self.timer.overdue, self.preemption.requested])
        control.should_save = self.state.step in self.planned or overdue > 0 or stop > 0

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if "loss" not in kwargs["logs"]:  # the summary that the trainer logs at its end
            return
        self.logs.append(kwargs["logs"])
        metrics = self.state.metrics
        if len(self.logs) == 1:
            # At the first update the policy is still the one that sampled. TRL's KL is a mean over tokens, ours is per completion.
            metrics[Metric.KL] = float(kwargs["logs"].get("kl", math.nan)) * metrics[Metric.LENGTH]
            with guarded(self.run.dir, self.config.algo, (state.global_step - 1) // self.updates + 1):
                require_kl_below(metrics[Metric.KL], self.config.kl)
        if len(self.logs) == self.updates:
            measured = {**metrics, **self.reward.shaped, Metric.KL_COEF: self.config.kl.beta, **renamed(self.logs)}
            self.run.progress.note(live_note(measured))
            self.watch.see(measured, self.state.step)
            self.state.num_equal = self.watch.num_equal
            self.run.log_training(measured, self.state.step)
            self.logs = []

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert args.output_dir is not None
        self.timer.restart()
        saved, world = Path(args.output_dir) / f"checkpoint-{state.global_step}", self.run.world
        world.barrier()  # every process has written its own part
        self.state.warnings = self.run.told
        world.from_main(lambda: keep_checkpoint(saved, self.run.dir, self.state, planned=self.planned, generation=self.generation))
        if world.all_sum([self.preemption.requested])[0]:
            self.preemption.requested = True
            self.preemption.check()

    def place(self, args: TrainingArguments, state: TrainerState) -> Place:
        """The last checkpoint, as the hooks need it."""
        step = self.state.step
        return Place(
            step=step,
            num_steps=self.config.num_batches,
            path=step_folder(self.run.dir, step),
            run_dir=self.run.dir,
            metrics=self.state.metrics,
            due=step in self.planned,
        )

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes in the hooks' metrics of the last checkpoint."""
        take_evaluation(self.state, metrics, self.config, self.run)


class StopCallback(TrainerCallback):
    """Ends training if the run has a reason to stop. Runs after the hooks."""

    def __init__(self, state: PPOState) -> None:
        self.state = state

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_training_stop = control.should_training_stop or bool(self.state.stopped_because)


class InterruptibleHook(SharedHook):
    """A hook that a signal interrupts at once, since everything is saved. Its matrix products run in `dtype`, at every step alike."""

    def __init__(self, hook: Hook, preemption: Preemption, dtype: Dtype) -> None:
        self.hook, self.preemption, self.dtype = hook, preemption, dtype
        self.seconds = 0.0
        """How long the hook has run."""

    def measure(self, event: CheckpointSaved, parts: RunParts) -> Mapping[str, float]:
        started = time.monotonic()
        with self.preemption.interruptible(), own_forward(event.model), autocast(parts.world.device, self.dtype):
            metrics = measured(self.hook, event, parts)
        self.seconds += time.monotonic() - started
        return metrics

    def on_end(self, event: RunEnded) -> None:
        self.hook.on_end(event)
