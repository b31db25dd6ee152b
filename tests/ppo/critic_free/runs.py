"""Runs of RLOO and GRPO on a tiny policy, and hooks and trackers that die during them."""

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.config import ModelConfig, OptimConfig
from core.hooks.hook import Hook
from core.hooks.run_context import RunContext
from core.records import CheckpointSaved, Dialogue, Scorer, Tracker, user
from ppo.config import Algo, PPOConfig, ShapingConfig
from ppo.critic_free.train import train_critic_free
from ppo.run import PPOResult
from tests.fakes import LengthScorer, ListTracker

PROMPTS = [user(f"Name {number} fruits.") for number in range(10)]
AS_SCORED = ShapingConfig(center="none", scale="fixed", std=1.0, clip=None)
BOTH = pytest.mark.parametrize("algo", [Algo.rloo, Algo.grpo])


def config_of(folder: Path, algo: Algo, **options: Any) -> PPOConfig:
    """Four batches of two groups of four, each a checkpoint; a batch is four updates."""
    config = PPOConfig(
        model=ModelConfig(path=str(folder)),
        algo=algo,
        group_size=4,
        prompts=["."],
        optim=OptimConfig(lr=1e-3, warmup_ratio=0.25),
        num_batches=4,
        num_checkpoints=4,
        batch_size=8,
        minibatch_size=4,
        micro_batch_size=2,
        max_new_tokens=6,
    )
    return replace(config, **options)


def run(
    config: PPOConfig,
    run_dir: Path,
    *,
    hooks: Sequence[Hook] = (),
    tracker: Tracker | None = None,
    scorer: Scorer | None = None,
    prompts: Sequence[Dialogue] = PROMPTS,
    said: list[str] | None = None,
) -> PPOResult:
    run_dir.mkdir(exist_ok=True)
    context = RunContext(dir=run_dir, hooks=hooks, tracker=tracker or ListTracker(), say=([] if said is None else said).append)
    return train_critic_free(config, context, prompts=prompts, scorer=scorer or LengthScorer())


class WeightHook(Hook):
    """Measures the policy itself, and dies or is told to stop once at a step."""

    def __init__(self, *, dies_at: int | None = None, stops_at: int | None = None) -> None:
        self.dies_at, self.stops_at = dies_at, stops_at

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        if event.step == self.dies_at:
            raise RuntimeError("the machine went away")
        if event.step == self.stops_at:
            os.kill(os.getpid(), signal.SIGTERM)
        weights = (parameter.double().square().sum().item() for parameter in event.model.parameters())
        return {"downstream/average": sum(weights)}


class ValuesByStep(Hook):
    """Gives each checkpoint the downstream average prepared for its step."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        return {"downstream/average": self.values[event.step]}


class DyingTracker(ListTracker):
    """Dies, or sends a signal, when it is given the training metrics of a step."""

    def __init__(self, step: int, *, by_signal: bool = False) -> None:
        super().__init__()
        self.step, self.by_signal = step, by_signal

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        super().log(metrics, axis=axis, step=step)
        if (axis, step) == ("train/step", self.step):
            if not self.by_signal:
                raise RuntimeError("the machine went away")
            os.kill(os.getpid(), signal.SIGTERM)


def without_seconds(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "train/trl/step_time"}
