"""What `test_processes` has one process do and two: `torchrun -m tests.ppo.critic_free.spread POLICY_FOLDER OUT_FOLDER SERVER_URL`.

Each algorithm is run on completions of a server, whose draws depend on neither the processes nor their shares, and on completions of
its own, stopped by a signal after its second batch and gone on with.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from core.config import Dtype, LoraConfig, RolloutConfig, RolloutKind
from core.hooks.run_context import RunContext
from core.process.exit import exit_without_teardown
from core.process.signals import Preempted
from core.process.world import World, join_world
from core.progress import NoProgress, Progress
from core.records import Sampling
from evalhooks.checkpoints.policy import PolicyHook
from ppo.config import Algo, PPOConfig
from ppo.critic_free.train import train_critic_free
from tests.fakes import LengthScorer, ListTracker, RecordingHook, SignallingProgress
from tests.ppo.critic_free.runs import PROMPTS, config_of
from tests.ppo.spread import TASK
from tests.spread import silent

LORA = LoraConfig(rank=4)
CASES = {"rloo": (Algo.rloo, LoraConfig()), "grpo": (Algo.grpo, LoraConfig()), "grpo-lora": (Algo.grpo, LORA)}


def ran(config: PPOConfig, run_dir: Path, world: World, progress: Progress | None = None) -> dict[str, Any]:
    run_dir.mkdir(parents=True, exist_ok=True)
    scorer, recording, tracker = LengthScorer(), RecordingHook(**{"downstream/average": 1.0}), ListTracker()
    hooks = [PolicyHook(tasks={"long": TASK}, sampling=Sampling(n=3, max_new_tokens=12, seed=2)), recording]
    context = RunContext(dir=run_dir, world=world, hooks=hooks, tracker=tracker, progress=progress or NoProgress(), say=silent)
    train_critic_free(config, context, prompts=PROMPTS, scorer=scorer)
    return {
        "train": tracker.on("train/step"),
        "checkpoints": tracker.on("checkpoint/step"),
        "hooked": len(recording.events),
        "scored": [len(prompts) for prompts, _ in scorer.calls],
    }


def main() -> None:
    policy, out, url = sys.argv[1:]
    torch.set_num_threads(1)
    world = join_world()
    for name, (algo, lora) in CASES.items():
        folder = Path(out) / f"{world.size}" / name
        rollout = RolloutConfig(kind=RolloutKind.vllm, url=url, folder=str(folder / "weights"), dtype=Dtype.fp32)
        options: dict[str, Any] = {"lora": lora, "minibatch_size": 8, "num_batches": 3, "num_checkpoints": 1}
        found: dict[str, Any] = {"served": ran(config_of(Path(policy), algo, rollout=rollout, **options), folder / "served", world)}
        if not lora.rank:
            plain = replace(config_of(Path(policy), algo, **options), minibatch_size=4)
            found["whole"] = ran(plain, folder / "whole", world)
            try:
                ran(plain, folder / "torn", world, SignallingProgress(2, during=str(algo).upper()) if world.is_main else None)
            except Preempted as stopped:
                found["stopped"] = str(stopped)
            found["rest"] = ran(plain, folder / "torn", world)
        every = world.all_gather(lambda found=found: found)
        if world.is_main:
            (folder / "found.json").write_text(json.dumps(every))
        world.barrier()


if __name__ == "__main__":
    with exit_without_teardown():
        main()
