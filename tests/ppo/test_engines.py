"""PPO in two processes under every engine does what it does alone, and the engines that shard really shard."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import ModelConfig
from core.models.load import load_policy
from core.process.world import World
from ppo.session import open_session
from tests.fakes import LengthScorer
from tests.ppo.spread import PROMPTS, config_of

KINDS = ("ddp", "fsdp2", "zero3", "fsdp2-lora")
MORE = ("zero2", "ddp-lora", "zero3-lora")
SERVED = ("fsdp2-vllm", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("ddp-vllm", "zero3-vllm")))
DRAWN = ("fsdp2-drawn", "zero3-drawn")
ALL = (*KINDS, *(pytest.param(kind, marks=pytest.mark.long) for kind in MORE))
BY_ITSELF = ("single", "single-lora", "single-drawn")
ALONE = {kind: "single-lora" if kind.endswith("-lora") else "single" for kind in (*KINDS, *MORE)}


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest, policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each engine did that a chosen test asks about, by its name, and the folder of their runs."""
    here = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == Path(__file__)]
    chosen = {str(item.callspec.params["kind"]) for item in here if hasattr(item, "callspec") and "kind" in item.callspec.params}
    folder = tmp_path_factory.mktemp("ppo-engines")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    kinds = sorted(chosen - {*BY_ITSELF})
    for start, own in (((), BY_ITSELF), (torchrun, kinds)):
        ended = subprocess.run(
            [sys.executable, *start, "-m", "tests.ppo.spread", str(policy_folder), str(folder), *own],
            env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert ended.returncode == 0, ended.stderr[-4000:]
    return folder, {kind: json.loads((folder / kind / "found.json").read_text()) for kind in (*BY_ITSELF, *kinds)}


@pytest.mark.parametrize("kind", ALL)
def test_two_processes_measure_in_five_batches_what_one_does(found: Any, kind: str) -> None:
    ours, alone = found[1][kind]["rows"], found[1][ALONE[kind]]["rows"]
    assert len(ours) == 5
    for row, expected in zip(ours, alone, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
    # The policy is its own reference until the warm-up of the critic ends; then it moves, so that equal rows say something.
    assert [abs(row["train/kl"]) < 1e-6 for row in alone] == [True, True, True, True, False]
    assert abs(alone[4]["train/kl"]) > 1e-3


@pytest.mark.parametrize("kind", ALL)
def test_two_processes_each_answer_their_share_of_a_task_and_measure_what_one_does(found: Any, kind: str) -> None:
    ours, alone = found[1][kind]["untrained"], found[1][ALONE[kind]]["untrained"]
    measured = {name for name in alone if name.startswith(("downstream/", "on_policy/"))}
    assert {"downstream/long", "on_policy/rm_score", "on_policy/length"} < measured
    assert 0 < alone["downstream/long"] < 1
    assert {name: ours[name] for name in measured} == pytest.approx({name: alone[name] for name in measured}, abs=1e-12)


@pytest.mark.parametrize("kind", ["single", "single-lora", *ALL])
def test_a_signal_saves_and_the_next_run_goes_on_to_the_same_bits(found: Any, kind: str) -> None:
    engine = found[1][kind]
    assert engine["stopped"] == "stopped by a signal and saved at batch 3 of 5; the same command goes on from there"
    assert engine["rest"] == engine["rows"][3:]
    assert engine["same"]


@pytest.mark.parametrize("kind", ALL)
def test_each_engine_lays_all_networks_as_its_name_says(found: Any, kind: str) -> None:
    engine, whole = found[1][kind], found[1][ALONE[kind]]["held"]
    match kind.partition("-")[0]:
        case "ddp":
            assert engine["module"] == "DistributedDataParallel"
            assert engine["held"] == whole
        case "fsdp2":
            assert "FSDPModule" in engine["bases"]
            assert engine["dtensors"]
            assert engine["held"] <= 0.6 * whole
        case zero:
            assert engine["module"] == "DeepSpeedEngine"
            assert engine["stage"] == int(zero[-1])
            assert engine["partitioned"] == (zero == "zero3")


@pytest.mark.parametrize("kind", ["single", *ALL])
def test_checkpoints_of_every_engine_are_policies_that_load_anywhere(found: Any, kind: str) -> None:
    folder, _ = found
    policy, _ = load_policy(ModelConfig(path=str(folder / kind / "whole" / "checkpoints" / "step-000005")))
    alone, _ = load_policy(ModelConfig(path=str(folder / ALONE.get(kind, "single") / "whole" / "checkpoints" / "step-000005")))
    for ours, theirs in zip(policy.parameters(), alone.parameters(), strict=True):
        # Adam divides by the root of the second moment, which blows rounding up where gradients are tiny.
        assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("kind", SERVED)
def test_a_server_draws_with_weights_streamed_from_all_processes_and_all_hear_of_its_failures(found: Any, kind: str) -> None:
    served = found[1][kind]
    assert served["gap"] < 1e-4
    main, other = served["told"]
    assert main == other
    assert "/collective_rpc refuses the request: status 400" in main


@pytest.mark.parametrize("kind", DRAWN)
def test_processes_that_share_a_policy_draw_in_bf16_from_a_copy_that_is_there_only_while_they_do(found: Any, kind: str) -> None:
    ours, alone = found[1][kind], found[1]["single-drawn"]
    assert ours["ids"] == alone["ids"]
    assert ours["gap"] == pytest.approx(alone["gap"], rel=1e-3)
    assert ours["second gap"] < 0.05
    assert ours["current"]
    # A weight of the layers takes 2 bytes; embeddings and head, which are large beside such small layers, take 4.
    assert 0.5 * alone["held"] < ours["held"] < 0.9 * alone["held"]
    assert ours["before"] == ours["after"] == 0


@pytest.mark.parametrize(("key", "size"), [("batch_size", 3), ("minibatch_size", 8)])
def test_a_batch_that_cannot_be_dealt_out_is_refused(policy_folder: Path, key: str, size: int) -> None:
    world = World(rank=0, size=size, device=torch.device("cpu"))
    config = config_of(str(policy_folder), "ddp")
    with pytest.raises(ValueError, match=f"{key}=. cannot be divided evenly among {size} processes; choose a multiple"):
        open_session(config, prompts=PROMPTS, scorer=LengthScorer(), reward_model=None, world=world)
