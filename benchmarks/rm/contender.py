"""One contender of `benchmarks.rm.speed`, in its own process so that peak memory is measured separately.

python -m benchmarks.rm.contender NAME PLAN OUT
"""

import json
import logging
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from benchmarks.machine import forward_flops, now, peak_mib, reset_peak, used_mib
from benchmarks.rm.plans import BATCH, Batches, Plan, work
from core.config import Dtype, ModelConfig, OptimConfig
from core.models.load import load_tokenizer
from core.process.memory import keep_freed_memory
from core.process.world import join_world
from core.records import Preference, user
from rmtrain.batches import Order
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.session import RMSession
from rmtrain.tokens import TokenPair

OURS, DEFAULT, GROUPED = "ours", "TRL default", "TRL grouped"
EPS = 1e-5
SEED = 0
"""Seed of the head: a session initialises it again, to the same weights as in the plan's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One contender's measurements: seconds of the timed steps, the loss of every step, and memory in MiB.

    `flops` counts the timed steps, padding included, without the second forward pass of checkpointing. `peak_mib` is the
    peak resident memory during training (on a GPU: allocated memory), `before_mib` the memory in use before the first step,
    `process_mib` the peak over the whole process, loading included.
    """

    seconds: float
    losses: list[float]
    flops: float
    peak_mib: float
    before_mib: float
    process_mib: float


def run(name: str, plan: Plan) -> Finding:
    """Trains by the plan."""
    logging.disable(logging.WARNING)
    return _ours(plan) if name == OURS else _trl(plan, name)


class Clock:
    """Measures time and memory of the timed steps: from the end of step `first` to the end of step `last`."""

    def __init__(self, plan: Plan, batches: Batches) -> None:
        self.first = 1 if plan.probe else 0
        self.last = self.first + len(batches)
        self.started = self.seconds = self.before_mib = 0.0

    def begin(self) -> None:
        """Call right before the first step."""
        self.before_mib = used_mib()
        reset_peak()
        self.after(0)

    def after(self, step: int) -> None:
        """Call when step `step` is done."""
        if step == self.first:
            self.started = now()
        if step == self.last:
            self.seconds = now() - self.started

    def finding(self, losses: Sequence[float], flops: float) -> Finding:
        return Finding(
            seconds=self.seconds,
            losses=list(losses),
            flops=flops,
            peak_mib=peak_mib(),
            before_mib=self.before_mib,
            process_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )


class Planned(Order):
    """A plan's batches in place of a session's own order."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def batch(self, step: int) -> list[int]:
        return self.batches[step - 1]


def _ours(plan: Plan) -> Finding:
    keep_freed_memory()  # as every `rewardloop` command does
    config = RewardModelConfig(
        model=ModelConfig(path=plan.model, dtype=Dtype(plan.dtype)),
        data=PreferenceDataConfig(paths=["given as tokens"]),
        optim=OptimConfig(lr=plan.lr, adam_eps=EPS),
        batch_size=BATCH,
        micro_batch_tokens=plan.micro_batch_tokens,
        seed=SEED,
    )
    session = RMSession(config, [Preference(prompt=user("a"), chosen="b", rejected="c")], world=join_world())
    session.pairs = token_pairs(plan)
    steps = plan.steps(plan.shuffled)
    session.order, session.num_steps = Planned(steps), len(steps)
    losses: list[float] = []
    clock = Clock(plan, plan.shuffled)
    clock.begin()
    for step in range(1, len(steps) + 1):
        losses.append(session.step(step).sums.metrics()["loss"])
        clock.after(step)
    done = work(session.pairs, plan.shuffled)
    return clock.finding(losses, 3 * forward_flops(session.model, done.unique, done.seen))


def _trl(plan: Plan, name: str) -> Finding:
    # Imported here because TRL's imports take seconds and memory that our own measurements must not include.
    from datasets import Dataset, disable_progress_bars
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    disable_progress_bars()
    on_gpu = torch.cuda.is_available()
    batches = plan.grouped if name == GROUPED else plan.shuffled
    rows = [plan.pairs[i] for batch in plan.steps(batches) for i in batch]
    longest = max(len(row) for pair in rows for row in pair)
    losses: list[torch.Tensor] = []
    clock = Clock(plan, batches)

    class Trainer(RewardTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # forwarded as they come
            loss = super().compute_loss(*args, **kwargs)
            assert isinstance(loss, torch.Tensor)  # without return_outputs
            losses.append(loss.detach())
            return loss

    class Timer(TrainerCallback):
        def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
            clock.begin()

        def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
            clock.after(state.global_step)

    with tempfile.TemporaryDirectory() as folder:
        # Everything else is TRL's default: bf16 under autocast, activation checkpointing, fused AdamW.
        arguments = RewardConfig(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=plan.lr,
            adam_epsilon=EPS,
            max_length=max(longest, 1024),
            bf16=plan.dtype == Dtype.bf16,
            train_sampling_strategy="sequential",  # the rows are already in batch order
            use_cpu=not on_gpu,
            dataloader_pin_memory=on_gpu,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            activation_checkpointing=False if name == GROUPED else None,  # None: as TRL sets it, on
        )
        model = AutoModelForSequenceClassification.from_pretrained(plan.model, dtype=torch.float32)
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list([{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in rows]),
            processing_class=load_tokenizer(ModelConfig(path=plan.model)),
            callbacks=[Timer()],
        )
        trainer.train()
    done = work(token_pairs(plan), batches)
    return clock.finding([loss.item() for loss in losses], 3 * forward_flops(model, done.padded, done.padded_seen))


def token_pairs(plan: Plan) -> list[TokenPair]:
    sides = [[np.array(row, dtype=np.int32) for row in pair] for pair in plan.pairs]
    return [TokenPair(chosen=chosen, rejected=rejected, margin=0.0) for chosen, rejected in sides]


def main() -> None:
    name, plan, out = sys.argv[1:]
    Path(out).write_text(json.dumps(asdict(run(name, Plan.load(Path(plan))))))


if __name__ == "__main__":
    main()
