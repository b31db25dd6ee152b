"""Runs of RLOO and GRPO on a tiny policy."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.config import ModelConfig, OptimConfig
from core.hooks.hook import Hook
from core.hooks.run_context import RunContext
from core.records import Dialogue, Scorer, Tracker, user
from ppo.config import Algo, Center, PPOConfig, Scale, ShapingConfig
from ppo.critic_free.train import train_critic_free
from ppo.run import PPOResult
from tests.fakes import LengthScorer, ListTracker

PROMPTS = [user(f"Name {number} fruits.") for number in range(10)]
AS_SCORED = ShapingConfig(center=Center.none, scale=Scale.fixed, std=1.0, clip=None)
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
