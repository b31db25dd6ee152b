"""The policies, reward models and prompts of `benchmarks.ppo.speed`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.ppo.plan import Plan
from benchmarks.rm import subjects as rm_subjects
from core.config import Dtype, ModelConfig
from core.data.chat import encode_prompts
from core.models.load import load_policy, load_tokenizer, new_reward_model
from core.records import Dialogue
from core.runs.checkpoints import latest_complete
from ppo.prompts import read_prompts

MAX_PROMPT = 256
"""Tokens; longer prompts are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A policy and a reward model with the same tokenizer, as plain model folders, with prompts and training sizes.

    `rollout_batches` and `weights` are the peer's settings: rollout batch sizes, and the dtype of policy and critic (empty:
    fp32, under autocast if the subject's dtype is bf16).
    """

    name: str
    policy: Path
    reward: Path
    prompts: Sequence[Dialogue]
    dtype: Dtype
    batch_size: int
    minibatch_size: int
    epochs: int
    max_new_tokens: int
    lr: float
    num_batches: int
    rollout_batches: tuple[int, ...]
    weights: tuple[str, ...] = ("",)

    def plan(self, num_batches: int, seed: int) -> Plan:
        """A plan whose first batch is a warm-up; each seed samples its own prompts."""
        tokenizer = load_tokenizer(ModelConfig(path=str(self.policy)))
        ids = encode_prompts(tokenizer, self.prompts)
        fitting = [i for i, row in enumerate(ids) if len(row) <= MAX_PROMPT]
        num = (num_batches + 1) * self.batch_size
        if len(fitting) < num:
            raise SystemExit(f"{self.name}: {num_batches} batches need {num} prompts, and there are {len(fitting)}; lower --batches.")
        order = torch.randperm(len(fitting), generator=torch.Generator().manual_seed(seed)).tolist()
        chosen = [fitting[place] for place in order[:num]]
        return Plan(
            policy=str(self.policy),
            reward=str(self.reward),
            prompts=[[{"role": turn.role, "content": turn.content} for turn in self.prompts[i]] for i in chosen],
            prompt_ids=[ids[i] for i in chosen],
            dtype=self.dtype,
            batch_size=self.batch_size,
            minibatch_size=self.minibatch_size,
            epochs=self.epochs,
            max_new_tokens=self.max_new_tokens,
            lr=self.lr,
            seed=seed,
        )


def microworld(world: Path | None, runs: Path | None, folder: Path) -> Subject:
    """The demo's PPO: the policy of a world and the reward model in `runs` that scores best on RewardBench 2.

    Without a world, one is made, with an untrained policy; without runs, the reward model has a new head.
    """
    untrained = rm_subjects.microworld(world, folder)  # also makes the world if there is none
    world = world or folder / "world"
    return Subject(
        name="microworld",
        policy=world / "policies" / "coast",
        reward=best_reward_model(runs) if runs else untrained.model,
        prompts=_dialogues(*(world / "preferences" / f"{mix}.jsonl" for mix in ("atlas", "harbor"))),
        dtype=Dtype.fp32,
        batch_size=128,
        minibatch_size=64,
        epochs=2,
        max_new_tokens=24,
        lr=3e-4,
        num_batches=12,
        rollout_batches=(64, 128),
    )


def smollm2(prompts: Path, path: str, folder: Path) -> Subject:
    """A pretrained model answers GSM8K questions; the reward model is the same model with a new head."""
    for name, (model, tokenizer) in {
        "policy": load_policy(ModelConfig(path=path)),
        "reward": new_reward_model(ModelConfig(path=path), seed=rm_subjects.SEED),
    }.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return Subject(
        name="smollm2",
        policy=folder / "policy",
        reward=folder / "reward",
        prompts=_dialogues(prompts),
        dtype=Dtype.bf16,
        batch_size=8,
        minibatch_size=8,
        epochs=1,
        max_new_tokens=128,
        lr=1e-6,
        num_batches=1,
        rollout_batches=(8,),
        weights=("", "bf16"),
    )


def best_reward_model(runs: Path) -> Path:
    """The last checkpoint of the study's finished reward-model run of the policy's lineage that scores best."""
    finals: dict[Path, float] = {}
    for file in runs.glob("rm-*/record.json"):
        record: Mapping[str, Any] = json.loads(file.read_text())
        if record["status"] == "finished" and record["lineage"]["base"] == "coast":
            finals[file.parent] = record["final"]["rewardbench2/overall"]
    if not finals:
        raise SystemExit(f"--runs={runs} has no finished reward model of coast; run `make demo`, or leave --runs out.")
    found = latest_complete(max(finals, key=finals.__getitem__), print)
    assert found is not None, "a finished run has a checkpoint"
    return found


def _dialogues(*files: Path) -> list[Dialogue]:
    return [prompt.dialogue for prompt in read_prompts(list(map(str, files)))]
