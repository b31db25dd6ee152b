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
from transformers import AutoModelForSequenceClassification

from core.runs.checkpoints import step_folder

ENGINES = ("ddp", "fsdp2", "fsdp2-offload", "fsdp2-once", "zero2", "zero3", "zero3-offload")


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
        timeout=600,
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
    assert engine["rest"]["loss"] == engine["loss"][6:]
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
