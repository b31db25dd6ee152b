"""A resumed run of RLOO or GRPO is the uninterrupted one, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from core.config import LoraConfig, ModelConfig
from core.engines.resume import resumable_steps
from core.hooks.hook import read_evaluation
from core.models.load import load_policy
from core.process.signals import Preempted
from core.runs.checkpoints import complete_steps, step_folder
from ppo.config import Algo, Center, Scale, ShapingConfig
from ppo.state import PROGRESS
from tests.fakes import ListTracker, RecordingHook
from tests.ppo.critic_free.runs import BOTH, config_of, run
from tests.ppo.fakes import DyingTracker, WeightHook, without_seconds


def snapshot(run_dir: Path) -> dict[str, Any]:
    """All that a run leaves behind but its clock."""
    last = step_folder(run_dir, 4)
    stored = torch.load(last / "state" / "optimizer.pt", weights_only=True)
    moments = {f"{i}/{name}": value for i, state in stored["state"].items() for name, value in state.items()}
    return {
        "tensors": {name: tensor.tolist() for name, tensor in {**load_file(last / "model.safetensors"), **moments}.items()},
        "scheduler": torch.load(last / "state" / "scheduler.pt", weights_only=True)["last_epoch"],
        "state": json.loads((last / PROGRESS).read_text()),
        "evaluations": {step: read_evaluation(run_dir, step) for step in (0, 2, 4)},
        "steps": complete_steps(run_dir),
        "best": (run_dir / "best").resolve().name,
    }


RUNNING = ShapingConfig(center=Center.running, scale=Scale.running)


@BOTH
@pytest.mark.parametrize(
    ("tracker", "hook", "why", "resumed_from"),
    [
        (DyingTracker(3), WeightHook(), RuntimeError, 2),  # between two checkpoints: batch 3 is drawn again
        (DyingTracker(1), WeightHook(), RuntimeError, None),  # before any checkpoint: from the start
        (ListTracker(), WeightHook(dies_at=2), RuntimeError, 2),  # a checkpoint without its evaluation, which is made up for
        (ListTracker(), WeightHook(dies_at=4), RuntimeError, 4),  # the last one: only its evaluation is left to do
        (DyingTracker(2, by_signal=True), WeightHook(), Preempted, 2),  # a signal where a checkpoint is due
        (DyingTracker(1, by_signal=True), WeightHook(), Preempted, 2),  # a signal after a batch: the next one is saved
        (ListTracker(), WeightHook(stops_at=2), Preempted, 2),  # a signal while the hooks run
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    policy_folder: Path,
    tmp_path: Path,
    algo: Algo,
    tracker: ListTracker,
    hook: WeightHook,
    why: type[BaseException],
    resumed_from: int | None,
) -> None:
    tracker.rows.clear()
    config = config_of(policy_folder, algo, num_checkpoints=2, shaping=RUNNING)
    uninterrupted, after, said = ListTracker(), ListTracker(), list[str]()
    whole = run(config, tmp_path / "whole", hooks=[WeightHook()], tracker=uninterrupted)
    with pytest.raises(why):
        run(config, tmp_path / "torn", hooks=[hook], tracker=tracker)
    assert run(config, tmp_path / "torn", hooks=[WeightHook()], tracker=after, said=said) == whole
    said = [line for line in said if not line.startswith("warning: ")]
    assert said == ([] if resumed_from is None else [f"resuming torn from step-{resumed_from:06d}"])
    assert snapshot(tmp_path / "torn") == snapshot(tmp_path / "whole")
    both = tracker.on("train/step") | after.on("train/step")
    assert {step: without_seconds(row) for step, row in both.items()} == {
        step: without_seconds(row) for step, row in uninterrupted.on("train/step").items()
    }


def test_a_checkpoint_that_a_signal_asked_for_has_no_hooks_and_goes_once_a_planned_one_is_there(
    policy_folder: Path, tmp_path: Path
) -> None:
    config = config_of(policy_folder, Algo.grpo, num_checkpoints=1)
    with pytest.raises(Preempted):
        run(config, tmp_path, tracker=DyingTracker(1, by_signal=True))
    assert complete_steps(tmp_path) == [2]
    recording = RecordingHook(**{"downstream/average": 1.0})
    run(config, tmp_path, hooks=[recording])
    assert [event.step for event in recording.events] == [4]
    assert complete_steps(tmp_path) == [4]


def test_a_finished_run_that_is_started_again_trains_no_further(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, Algo.rloo, num_batches=2, num_checkpoints=1)
    first = run(config, tmp_path, hooks=[WeightHook()])
    tracker, recording = ListTracker(), RecordingHook(**{"downstream/average": 1.0})
    assert run(config, tmp_path, hooks=[WeightHook(), recording], tracker=tracker) == first
    assert tracker.rows == []
    assert [ended.step for ended in recording.ended] == [2]


@BOTH
def test_an_adapter_is_trained_saved_merged_on_loading_and_resumed(policy_folder: Path, tmp_path: Path, algo: Algo) -> None:
    config = config_of(policy_folder, algo, lora=LoraConfig(rank=2, alpha=4.0, dropout=0.1, targets=["q_proj", "v_proj"]))
    recording = RecordingHook(**{"downstream/average": 1.0})
    run(config, tmp_path / "whole", hooks=[recording])
    assert all(isinstance(event.model, LlamaForCausalLM) for event in recording.events)
    with pytest.raises(RuntimeError):
        run(config, tmp_path / "torn", hooks=[WeightHook(dies_at=2)])
    run(config, tmp_path / "torn", hooks=[WeightHook()])
    last = [step_folder(tmp_path / name, 4) for name in ("whole", "torn")]
    whole, torn = ({n: t.tolist() for n, t in load_file(folder / "adapter_model.safetensors").items()} for folder in last)
    assert whole == torn
    assert not (last[0] / "model.safetensors").exists()
    merged, base = load_policy(ModelConfig(path=str(last[0])))[0], load_policy(config.model)[0]
    changed = {name for name, weight in merged.named_parameters() if not torch.equal(weight, base.get_parameter(name))}
    assert changed == {f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qv"}


@BOTH
def test_two_states_are_kept_while_a_run_is_under_way_and_a_damaged_one_gives_way_to_the_other(
    policy_folder: Path, tmp_path: Path, algo: Algo
) -> None:
    config = config_of(policy_folder, algo, num_checkpoints=2, save_minutes=1e-9)
    run(config, tmp_path / "whole", hooks=[WeightHook()])
    with pytest.raises(RuntimeError, match="the machine went away"):
        run(config, tmp_path / "torn", hooks=[WeightHook()], tracker=DyingTracker(4))
    assert (complete_steps(tmp_path / "torn"), resumable_steps(tmp_path / "torn")) == ([2, 3], [2, 3])
    damaged = step_folder(tmp_path / "torn", 3) / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    said: list[str] = []
    run(config, tmp_path / "torn", hooks=[WeightHook()], said=said)
    said = [line for line in said if not line.startswith("warning: ")]
    assert said == [
        f"Skipping the damaged checkpoint {damaged.parent}: the content of model.safetensors has changed.",
        "resuming torn from step-000002",
    ]
    assert snapshot(tmp_path / "torn") == snapshot(tmp_path / "whole")
    assert (complete_steps(tmp_path / "torn"), resumable_steps(tmp_path / "torn")) == ([4], [4])
