"""Runs of PPO on a tiny policy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import LlamaForSequenceClassification

from core.config import ModelConfig, OptimConfig
from core.hooks.hook import Hook
from core.hooks.run_context import RunContext
from core.progress import NoProgress, Progress
from core.records import Dialogue, Scorer, Tracker, user
from ppo.config import PPOConfig
from ppo.run import PPOResult
from ppo.train import train
from tests.fakes import LengthScorer, ListTracker

PROMPTS = [user(f"Name {number} fruits.") for number in range(10)]


def config_of(folder: Path, **options: Any) -> PPOConfig:
    """Four batches of eight, each a checkpoint."""
    config = PPOConfig(
        model=ModelConfig(path=str(folder)),
        prompts=["."],
        optim=OptimConfig(lr=1e-3, warmup_ratio=0.25),
        num_batches=4,
        num_checkpoints=4,
        batch_size=8,
        minibatch_size=4,
        micro_batch_size=4,
        max_new_tokens=6,
        keep="all",
    )
    return replace(config, **options)


def run(
    config: PPOConfig,
    run_dir: Path,
    *,
    hooks: list[Hook] | None = None,
    tracker: Tracker | None = None,
    reward_model: LlamaForSequenceClassification | None = None,
    prompts: list[Dialogue] | None = None,
    said: list[str] | None = None,
    scorer: Scorer | None = None,
    progress: Progress | None = None,
) -> PPOResult:
    run_dir.mkdir(exist_ok=True)
    say = ([] if said is None else said).append
    progress = progress or NoProgress()
    context = RunContext(dir=run_dir, hooks=hooks or [], tracker=tracker or ListTracker(), progress=progress, say=say)
    return train(config, context, prompts=prompts or PROMPTS, scorer=scorer or LengthScorer(), reward_model=reward_model)
