"""What `test_engines` has several processes do: `torchrun -m tests.rmtrain.spread POLICY_FOLDER OUT_FOLDER ENGINE...`."""

from pathlib import Path
from typing import Any

from torch import nn

from core.config import EngineConfig, EngineKind, ModelConfig, Offload, OptimConfig
from core.hooks.run_context import RunContext
from core.process.exit import exit_without_teardown
from core.process.world import World
from core.progress import Progress
from core.records import Preference, user
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.session import RMSession
from rmtrain.train import train
from tests.fakes import ListTracker, RecordingHook
from tests.spread import run_engines, silent

# 25 pairs in batches of 8: the last step of an epoch has a single pair, for two processes.
PAIRS = [
    Preference(
        prompt=user(f"Name a fruit{', or two' * (i % 4)}, {i}."), chosen=f"A {'plum ' * (i % 5)}is a fruit.", rejected="No, the fig."
    )
    for i in range(25)
]


def config_of(policy: str, kind: str) -> RewardModelConfig:
    """`kind` is an engine, maybe with what is different about it: fsdp2-offload, fsdp2-once."""
    engine, _, way = kind.partition("-")
    offload = Offload.all if way == "offload" else Offload.none
    return RewardModelConfig(
        model=ModelConfig(path=policy),
        data=PreferenceDataConfig(paths=["unused.jsonl"]),
        optim=OptimConfig(lr=3e-3, weight_decay=0.1, warmup_ratio=0.2),
        engine=EngineConfig(kind=EngineKind(engine), offload=offload, reduce_once=way == "once"),
        batch_size=8,
        micro_batch_tokens=120,
        epochs=2,
        num_checkpoints=2,
        log_every=1,
    )


def losses_of(policy: str, kind: str, run_dir: Path, world: World, progress: Progress) -> dict[str, Any]:
    tracker, hook = ListTracker(), RecordingHook(quality=1.0)
    context = RunContext(dir=run_dir, world=world, hooks=[hook], tracker=tracker, progress=progress, say=silent)
    train(config_of(policy, kind), context, preferences=PAIRS)
    rows = tracker.on("train/step")
    return {
        "loss": [row["train/loss"] for row in rows.values()],
        "norm": [row["train/grad_norm"] for row in rows.values()],
        "hooks": len(hook.events),
    }


def module_of(policy: str, kind: str, world: World) -> nn.Module:
    return RMSession(config_of(policy, kind), PAIRS, world=world, say=silent).engine.module


if __name__ == "__main__":
    with exit_without_teardown():
        run_engines(losses_of, module_of, during="training", stop_after=5, last_step=8)
