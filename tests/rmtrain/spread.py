"""What `test_engines` has several processes do: `torchrun -m tests.rmtrain.spread POLICY_FOLDER OUT_FOLDER ENGINE...`.

Each engine trains a reward model to the end; then another is told to stop after its fifth step, and goes on. The main
process writes down the losses and gradients' norms, how the weights lay, and whether stopping changed a bit.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from core.config import EngineConfig, EngineKind, ModelConfig, OptimConfig
from core.hooks.run_context import RunContext
from core.process.exit import exit_without_teardown
from core.process.signals import Preempted
from core.process.world import World, join_world
from core.progress import NoProgress
from core.records import Preference, user
from core.runs.checkpoints import step_folder
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.session import RMSession
from rmtrain.train import train
from tests.fakes import ListTracker, RecordingHook

# 25 pairs in batches of 8: the last step of an epoch has a single pair, for two processes.
PAIRS = [
    Preference(
        prompt=user(f"Name a fruit{', or two' * (i % 4)}, {i}."), chosen=f"A {'plum ' * (i % 5)}is a fruit.", rejected="No, the fig."
    )
    for i in range(25)
]


class Stopping(NoProgress):
    """Sends SIGTERM to its own process as the fifth step ends."""

    def __init__(self) -> None:
        self.done = 0

    def start(self, description: str, total: int) -> None:
        self.done = -10_000 if description != "training" else 0

    def advance(self, n: int = 1) -> None:
        self.done += n
        if self.done == 5:
            os.kill(os.getpid(), signal.SIGTERM)


def config_of(policy: str, kind: str) -> RewardModelConfig:
    return RewardModelConfig(
        model=ModelConfig(path=policy),
        data=PreferenceDataConfig(paths=["unused.jsonl"]),
        optim=OptimConfig(lr=3e-3, weight_decay=0.1, warmup_ratio=0.2),
        engine=EngineConfig(kind=EngineKind(kind)),
        batch_size=8,
        micro_batch_tokens=120,
        epochs=2,
        num_checkpoints=2,
        log_every=1,
    )


def losses_of(config: RewardModelConfig, run_dir: Path, world: World, progress: NoProgress | None = None) -> dict[str, Any]:
    tracker = ListTracker()
    run_dir.mkdir(parents=True, exist_ok=True)
    hook = RecordingHook(quality=1.0)
    context = RunContext(dir=run_dir, world=world, hooks=[hook], tracker=tracker, progress=progress or NoProgress(), say=_quiet)
    train(config, context, preferences=PAIRS)
    rows = tracker.on("train/step")
    return {
        "loss": [row["train/loss"] for row in rows.values()],
        "norm": [row["train/grad_norm"] for row in rows.values()],
        "hooks": len(hook.events),
    }


def layout_of(config: RewardModelConfig, world: World) -> dict[str, Any]:
    """The kind of the engine's module, and the share of the weights, gradients' sums aside, that this process holds."""
    session = RMSession(config, PAIRS, world=world, say=_quiet)
    parameters = list(session.engine.module.parameters())
    held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in parameters)
    return {
        "module": type(session.engine.module).__mro__[0].__name__,
        "bases": [base.__name__ for base in type(session.engine.module).__mro__],
        "dtensors": all(isinstance(p, DTensor) for p in parameters),
        "held": held,
        "partitioned": all("ds_id" in vars(p) and p.data.numel() == 0 for p in parameters),
        "stage": getattr(session.engine.module, "zero_optimization_stage", lambda: None)(),
    }


def weights(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(step_folder(run_dir, step) / "model.safetensors")


def _quiet(line: str) -> None:
    pass


def main() -> None:
    policy, out, *kinds = sys.argv[1:]
    torch.set_num_threads(1)
    world = join_world()
    for kind in kinds:
        config, folder = config_of(policy, kind), Path(out) / kind
        found = losses_of(config, folder / "whole", world)
        try:
            losses_of(config, folder / "torn", world, Stopping() if world.is_main else None)
        except Preempted as stopped:
            found["stopped"] = str(stopped)
        found["rest"] = losses_of(config, folder / "torn", world)["loss"]
        found |= layout_of(config, world)
        if world.is_main:
            whole, torn = weights(folder / "whole", 8), weights(folder / "torn", 8)
            found["same"] = all(torch.equal(whole[name], torn[name]) for name in whole)
            (folder / "found.json").write_text(json.dumps(found))
        world.barrier()


if __name__ == "__main__":
    with exit_without_teardown():
        main()
