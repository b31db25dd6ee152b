"""Does it start at all: reward-model training and PPO through their own entry points, with tiny models in bf16 and in fp32."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from benchmarks.gpu.findings import Finding
from benchmarks.gpu.subjects import Scale, Size, classifier, language_model, saved
from core.config import Dtype, ModelConfig, OptimConfig
from core.hooks.run_context import RunContext
from core.models.load import load_reward_model
from core.records import Preference, user
from core.scorers.reward_model import RewardModelScorer
from ppo.config import PPOConfig
from ppo.train import train as train_policy
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.train import train as train_reward_model

SIZE = Size(hidden=256, inner=512, layers=4, heads=4, key_heads=2, vocabulary=500)


class Kept:
    """Keeps the metrics that a run logs."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, float]] = []

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        if axis == "train/step" and "train/grad_norm" in metrics:
            self.rows.append(metrics)

    def close(self, *, exit_code: int = 0) -> None:
        pass


def start(scale: Scale) -> Iterator[Finding]:
    """Four steps of a reward model, then two batches of PPO against it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = saved(language_model(SIZE, torch.float32), SIZE, folder / "policy")
        reward = saved(classifier(SIZE, torch.float32), SIZE, folder / "reward")
        for dtype in (Dtype.bf16, Dtype.fp32):
            yield {"what": f"reward model, {dtype}", **reward_model(policy, dtype, folder / f"rm-{dtype}")}
            yield {"what": f"PPO, {dtype}", **ppo(policy, reward, dtype, folder / f"ppo-{dtype}")}


def reward_model(policy: str, dtype: Dtype, folder: Path) -> Finding:
    config = RewardModelConfig(
        model=ModelConfig(path=policy, dtype=dtype),
        data=PreferenceDataConfig(paths=["given"]),
        optim=OptimConfig(lr=1e-3),
        batch_size=8,
        micro_batch_tokens=128,
        epochs=4,
        num_checkpoints=1,
        log_every=1,
    )
    pairs = [Preference(prompt=user(text(number, 12)), chosen=text(number + 100, 9), rejected=text(number + 200, 7)) for number in range(8)]
    said: list[str] = []
    kept = Kept()
    train_reward_model(config, RunContext(dir=folder, tracker=kept, say=said.append), preferences=pairs)
    losses = [row["train/loss"] for row in kept.rows]
    return {"first loss": losses[0], "last loss": losses[-1], "gradient norm": kept.rows[0]["train/grad_norm"], "said": "; ".join(said)}


def ppo(policy: str, reward: str, dtype: Dtype, folder: Path) -> Finding:
    config = PPOConfig(
        model=ModelConfig(path=policy, dtype=dtype),
        prompts=["given"],
        optim=OptimConfig(lr=1e-4),
        num_batches=2,
        batch_size=16,
        minibatch_size=8,
        micro_batch_size=4,
        max_new_tokens=24,
        max_prompt_length=32,
        num_checkpoints=1,
    )
    model, tokenizer = load_reward_model(ModelConfig(path=reward, dtype=dtype))
    said: list[str] = []
    kept = Kept()
    context = RunContext(dir=folder, tracker=kept, say=said.append)
    scorer = RewardModelScorer(model, tokenizer, say=said.append)
    prompts = [user(text(number, 5 + number % 7)) for number in range(32)]
    train_policy(config, context, prompts=prompts, scorer=scorer, reward_model=model)
    first, last = kept.rows[0], kept.rows[-1]
    return {
        "batches": len(kept.rows),
        "gradient norm": first["train/grad_norm"],
        "of the last": last["train/grad_norm"],
        "largest |ratio - 1|": first["train/first_ratio_error"],
        "gap to the engine": first["train/importance_gap"],
        "said": "; ".join(said),
    }


def text(seed: int, number: int) -> str:
    return " ".join(f"w{4 + (seed * 37 + place * 11) % 490}" for place in range(number))
