"""The world that all cases share: tiny models, data, pools. Made once, in processes of their own, and read only."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from core.disk import is_complete
from microworld.config import LINEAGES, WorldConfig
from microworld.world import build_world
from tests.fakes import only_id, tiny_llama, with_likely_end
from tests.faults.child import forked, rewardloop


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Where the shared files lie.

    >>> Stage(folder=Path("/tmp/stage")).pairs.as_posix()
    '/tmp/stage/world/preferences/atlas.jsonl'
    """

    folder: Path

    @property
    def world(self) -> Path:
        """A microworld of a few rows each."""
        return self.folder / "world"

    @property
    def policy(self) -> Path:
        """A random policy."""
        return self.world / "policies" / "coast"

    @property
    def reward_model(self) -> Path:
        """A random reward model."""
        return self.folder / "reward-model"

    @property
    def pairs(self) -> Path:
        """Preference pairs."""
        return self.world / "preferences" / "atlas.jsonl"

    @property
    def pools(self) -> Path:
        """Pools of the policy on one task."""
        return self.world / "pools"

    @property
    def rows2(self) -> Path:
        """Rows of RewardBench 2."""
        return self.world / "benchmark" / "rewardbench2.jsonl"

    @property
    def rows1(self) -> Path:
        """Rows of RewardBench 1."""
        return self.world / "benchmark" / "rewardbench1.jsonl"

    @property
    def task(self) -> Path:
        """Prompts of a task."""
        return self.world / "tasks" / "facts.jsonl"


def build_stage(folder: Path) -> Stage:
    """Makes the files, unless they are there."""
    stage = Stage(folder=folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not stage.reward_model.is_dir():
        made = forked(lambda: _models(stage), folder, timeout=300)
        assert made.code == 0, made.said
    if not is_complete(stage.pools):
        from tests.faults.jobs import BON, world_of

        made = rewardloop(["bon", *world_of(stage), *BON], folder)
        assert made.code == 0, made.said
    return stage


def _models(stage: Stage) -> None:
    config = WorldConfig(corpus_size=40, pairs=32, benchmark_rows=2, task_rows=4, vocab_size=300)
    world = build_world(config, stage.world)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(world / "tokenizer")
    for seed, lineage in enumerate(LINEAGES):
        torch.manual_seed(seed)
        policy = LlamaForCausalLM(tiny_llama(tokenizer)).eval()
        with_likely_end(policy, only_id(tokenizer.eos_token_id)).save_pretrained(world / "policies" / lineage)
        tokenizer.save_pretrained(world / "policies" / lineage)
    torch.manual_seed(2)
    LlamaForSequenceClassification(tiny_llama(tokenizer, num_labels=1)).save_pretrained(stage.reward_model)
    tokenizer.save_pretrained(stage.reward_model)
