"""Two processes under every engine do what one does alone, and the engines that shard really shard."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification

import core.engines.torch_engine
from core.config import Dtype, EngineConfig, EngineKind, OptimConfig
from core.engines.engine import open_engine
from core.engines.optim import schedule
from core.process.world import World
from core.runs.checkpoints import step_folder

ENGINES = ("ddp", "fsdp2", "zero2", "zero3")


def run_script(folder: Path, policy_folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    started = subprocess.run(
        [
            sys.executable,
            *arguments,
            str(policy_folder),
            str(folder),
            *([*ENGINES] if "torch.distributed.run" in arguments else ["single"]),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert started.returncode == 0, started.stderr[-4000:]


@pytest.fixture(scope="module")
def found(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """What each engine did, by its name, and the folder of their runs."""
    folder = tmp_path_factory.mktemp("engines")
    run_script(folder, policy_folder, "-m", "tests.rmtrain.spread")
    run_script(folder, policy_folder, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.rmtrain.spread")
    return folder, {kind: json.loads((folder / kind / "found.json").read_text()) for kind in ("single", *ENGINES)}


@pytest.mark.parametrize("kind", ENGINES)
def test_two_processes_have_the_losses_gradients_and_weights_of_one(found: Any, kind: str) -> None:
    folder, engines = found
    assert len(engines["single"]["loss"]) == 8
    assert engines[kind]["loss"] == pytest.approx(engines["single"]["loss"], abs=1e-5)
    assert engines[kind]["norm"] == pytest.approx(engines["single"]["norm"], rel=1e-4)
    assert engines[kind]["hooks"] == 2
    ours, alone = (load_file(step_folder(folder / name / "whole", 8) / "model.safetensors") for name in (kind, "single"))
    assert ours.keys() == alone.keys()
    # Adam divides by the root of the second moment, which blows rounding up where gradients are tiny.
    assert all(torch.allclose(ours[name], tensor, atol=2e-4) for name, tensor in alone.items())


@pytest.mark.parametrize("kind", ["single", *ENGINES])
def test_a_signal_saves_and_the_next_run_goes_on_to_the_same_bits(found: Any, kind: str) -> None:
    engine = found[1][kind]
    assert engine["stopped"] == "stopped by a signal and saved at step 6 of 8; the same command goes on from there"
    assert engine["rest"] == engine["loss"][6:]
    assert engine["same"]


def test_each_engine_lays_the_weights_as_its_name_says(found: Any) -> None:
    engines = found[1]
    whole = engines["single"]["held"]
    assert engines["ddp"]["module"] == "DistributedDataParallel"
    assert engines["ddp"]["held"] == whole
    assert "FSDPModule" in engines["fsdp2"]["bases"]
    assert engines["fsdp2"]["dtensors"]
    assert engines["fsdp2"]["held"] <= 0.6 * whole
    assert (engines["zero2"]["module"], engines["zero2"]["stage"]) == ("DeepSpeedEngine", 2)
    assert (engines["zero3"]["module"], engines["zero3"]["stage"]) == ("DeepSpeedEngine", 3)
    assert engines["zero3"]["partitioned"]
    assert not engines["zero2"]["partitioned"]


@pytest.mark.parametrize("kind", ENGINES)
def test_checkpoints_of_every_engine_load_anywhere(found: Any, kind: str) -> None:
    folder, _ = found
    model, info = AutoModelForSequenceClassification.from_pretrained(step_folder(folder / kind / "whole", 8), output_loading_info=True)
    assert model.config.num_labels == 1
    assert not info["missing_keys"]


@pytest.mark.parametrize("kind", ENGINES)
def test_one_process_alone_cannot_have_an_engine_for_several(kind: str) -> None:
    world = World(rank=0, size=1, device=torch.device("cpu"))
    module = nn.Linear(2, 1)
    with pytest.raises(ValueError, match=rf"engine={kind} does not go with 1 process\(es\); start several: torchrun"):
        open_engine(
            EngineConfig(kind=EngineKind(kind)),
            module,
            [{"params": [*module.parameters()], "lr": 1.0}],
            optim=OptimConfig(),
            dtype=Dtype.fp32,
            world=world,
        )


def test_an_engine_that_did_not_take_effect_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.engines.torch_engine, "_shard", lambda module, dtype: None)
    module = nn.Linear(2, 1)
    world = World(rank=0, size=2, device=torch.device("cpu"))
    with pytest.raises(RuntimeError, match="engine=fsdp2 did not take effect"):
        open_engine(
            EngineConfig(kind=EngineKind.fsdp2),
            module,
            [{"params": [*module.parameters()], "lr": 1.0}],
            optim=OptimConfig(),
            dtype=Dtype.fp32,
            world=world,
        )


def test_the_learning_rate_rises_then_falls_to_zero_behind_the_last_step() -> None:
    linear = OptimConfig(warmup_ratio=0.2)
    # 10 steps, 2 of them warm-up: 0, 1/2, then 1 falls by an eighth a step; what would come next is 0.
    assert [schedule(linear, step, 10) for step in range(1, 12)] == pytest.approx(
        [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]
    )
    cosine = OptimConfig(schedule="cosine")  # type: ignore[arg-type]
    # Half a cosine over 4 steps: (1 + cos(k pi / 4)) / 2.
    assert [schedule(cosine, step, 4) for step in range(1, 6)] == pytest.approx([1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)
    constant = OptimConfig(schedule="constant", warmup_ratio=0.5)  # type: ignore[arg-type]
    assert [schedule(constant, step, 4) for step in range(1, 6)] == pytest.approx([0, 0.5, 1, 1, 1])
