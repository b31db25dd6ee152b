"""What several processes do for the tests of the trainers' engines: train to the end, stop in the middle, and go on."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from core.process.signals import Preempted
from core.process.world import World, join_world
from core.progress import NoProgress, Progress
from core.runs.checkpoints import step_folder
from tests.fakes import SignallingProgress

Train = Callable[[str, str, Path, World, Progress], Mapping[str, Any]]
"""Trains a policy under an engine in a folder, and says what it measured."""


def run_engines(train: Train, module_of: Callable[[str, str, World], nn.Module], *, during: str, stop_after: int, last_step: int) -> None:
    """What `torchrun -m tests.TRAINER.spread POLICY_FOLDER OUT_FOLDER ENGINE...` does for each engine.

    It trains to the end; another run is stopped by a signal after so many steps of the work called `during`, and goes on. The
    main process writes to `OUT_FOLDER/ENGINE/found.json` what was measured, how the weights lay, and whether stopping changed
    a bit.
    """
    policy, out, *kinds = sys.argv[1:]
    torch.set_num_threads(1)
    world = join_world()
    for kind in kinds:
        folder = Path(out) / kind
        whole, torn = folder / "whole", folder / "torn"
        for run_dir in (whole, torn):
            run_dir.mkdir(parents=True, exist_ok=True)
        found = {**train(policy, kind, whole, world, NoProgress())}
        try:
            train(policy, kind, torn, world, SignallingProgress(stop_after, during=during) if world.is_main else NoProgress())
        except Preempted as stopped:
            found["stopped"] = str(stopped)
        found["rest"] = train(policy, kind, torn, world, NoProgress())
        found |= _layout_of(module_of(policy, kind, world))
        if world.is_main:
            ours, theirs = (_weights(step_folder(run_dir, last_step)) for run_dir in (whole, torn))
            found["same"] = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
            (folder / "found.json").write_text(json.dumps(found))
        world.barrier()


def silent(line: str) -> None:
    pass


def _layout_of(module: nn.Module) -> dict[str, Any]:
    """The kind of an engine's module, and how many of the weights this process holds."""
    parameters = list(module.parameters())
    return {
        "module": type(module).__name__,
        "bases": [base.__name__ for base in type(module).__mro__],
        "dtensors": all(isinstance(parameter, DTensor) for parameter in parameters),
        "held": sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in parameters),
        "partitioned": all("ds_id" in vars(parameter) and parameter.data.numel() == 0 for parameter in parameters),
        "stage": getattr(module, "zero_optimization_stage", lambda: None)(),
    }


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights of a model, or of an adapter alone."""
    [file] = checkpoint.glob("*model.safetensors")
    return load_file(file)
