"""A resumed run of PPO is the uninterrupted one, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from core.config import OptimConfig
from core.engines.resume import STATE, forget_states, resumable_steps
from core.hooks.hook import read_evaluation
from core.runs.checkpoints import complete_steps, step_folder
from ppo.config import (
    Center,
    CriticStart,
    KLConfig,
    KLEstimator,
    KLPlace,
    MissingEOS,
    MissingEOSConfig,
    OverlongConfig,
    Scale,
    ShapingConfig,
)
from ppo.state import PROGRESS
from tests.fakes import ListTracker, tiny_llama
from tests.ppo.fakes import DyingTracker, ValuesByStep, WeightHook, without_seconds
from tests.ppo.runs import config_of, run


def snapshot(run_dir: Path) -> dict[str, Any]:
    """All that a run leaves behind but its clock: weights, optimiser, state, evaluations, the best link."""
    last = step_folder(run_dir, 4)
    stored = torch.load(last / STATE / "state.pt", weights_only=True)
    moments = {f"{i}/{name}": value for i, state in stored["optimizer"]["state"].items() for name, value in state.items()}
    tensors = {**load_file(last / "model.safetensors"), **stored["model"], **moments}
    state = json.loads((last / PROGRESS).read_text())
    return {
        "tensors": {name: tensor.tolist() for name, tensor in tensors.items()},
        "groups": stored["optimizer"]["param_groups"],
        "state": {**state, "metrics": without_seconds(state["metrics"])},
        "evaluations": {step: without_seconds(read_evaluation(run_dir, step)) for step in (0, 1, 2, 3, 4)},
        "best": (run_dir / "best").resolve().name,
    }


@pytest.mark.parametrize(
    ("dying_tracker", "dying_hook", "resumed_from"),
    [
        (DyingTracker(3), WeightHook(), 2),  # between two checkpoints: batch 3 is drawn again
        (ListTracker(), WeightHook(dies_at=2), 2),  # a checkpoint without its evaluation, which is made up for
        (ListTracker(), WeightHook(dies_at=4), 4),  # the last one: only its evaluation is left to do
        (DyingTracker(1), WeightHook(), None),  # before any checkpoint: from the start
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    policy_folder: Path,
    reward_model: LlamaForSequenceClassification,
    tmp_path: Path,
    dying_tracker: ListTracker,
    dying_hook: WeightHook,
    resumed_from: int | None,
) -> None:
    config = config_of(policy_folder)
    uninterrupted = ListTracker()
    whole = run(config, tmp_path / "whole", hooks=[WeightHook()], tracker=uninterrupted, reward_model=reward_model)

    with pytest.raises(RuntimeError, match="the machine went away"):
        run(config, tmp_path / "torn", hooks=[dying_hook], tracker=dying_tracker, reward_model=reward_model)
    said: list[str] = []
    after = ListTracker()
    resumed = run(config, tmp_path / "torn", hooks=[WeightHook()], tracker=after, reward_model=reward_model, said=said)

    said = [line for line in said if not line.startswith("warning: ")]
    assert said == ([] if resumed_from is None else [f"resuming torn from step-{resumed_from:06d}"])
    assert resumed == whole
    assert snapshot(tmp_path / "torn") == snapshot(tmp_path / "whole")
    both = dying_tracker.on("train/step") | after.on("train/step")
    assert list(after.on("train/step")) == list(range((resumed_from or 0) + 1, 5))
    assert {step: without_seconds(row) for step, row in both.items()} == {
        step: without_seconds(row) for step, row in uninterrupted.on("train/step").items()
    }


def all_knobs(value_warmup: int, place: KLPlace) -> dict[str, Any]:
    """A configuration in which everything that a run remembers changes from batch to batch."""
    return {
        "kl": KLConfig(place=place, estimator=KLEstimator.k3, target=0.01, horizon=20, stop=100.0),
        "shaping": ShapingConfig(
            center=Center.running,
            scale=Scale.running,
            clip=2.0,
            overlong=OverlongConfig(buffer=3),
            missing_eos=MissingEOSConfig(how=MissingEOS.replace, value=-1.0),
        ),
        "importance_cap": 2.0,
        "value_warmup": value_warmup,
        "entropy_coef": 0.01,
        "dual_clip": 2.0,
        "stop_after_falls": 3,
        "optim": OptimConfig(lr=1e-3, warmup_ratio=0.25, weight_decay=0.1),
    }


@pytest.mark.parametrize(("value_warmup", "place"), [(1, KLPlace.reward), (1, KLPlace.loss), (3, KLPlace.reward)])
def test_a_run_with_every_knob_on_resumes_bit_for_bit(
    policy_folder: Path, reward_model: LlamaForSequenceClassification, tmp_path: Path, value_warmup: int, place: KLPlace
) -> None:
    config, uninterrupted, dying, after = (
        config_of(policy_folder, **all_knobs(value_warmup, place)),
        ListTracker(),
        DyingTracker(3),
        ListTracker(),
    )
    whole = run(config, tmp_path / "whole", hooks=[WeightHook()], tracker=uninterrupted, reward_model=reward_model)
    with pytest.raises(RuntimeError, match="the machine went away"):
        run(config, tmp_path / "torn", hooks=[WeightHook()], tracker=dying, reward_model=reward_model)
    assert run(config, tmp_path / "torn", hooks=[WeightHook()], tracker=after, reward_model=reward_model) == whole
    assert snapshot(tmp_path / "torn") == snapshot(tmp_path / "whole")
    logged = uninterrupted.on("train/step")
    both = dying.on("train/step") | after.on("train/step")
    assert {step: without_seconds(row) for step, row in both.items()} == {step: without_seconds(row) for step, row in logged.items()}

    state = snapshot(tmp_path / "whole")["state"]
    assert state["statistics"]["reference"]["count"] == 8
    assert state["statistics"]["running"]["count"] == 5 * 8  # those of step 0 and of four batches
    # During the warm-up the policy is the reference, and the coefficient waits; then it answers to the KL.
    coefficients = [logged[step]["train/kl_coef"] for step in (1, 2, 3, 4)] + [state["kl_coef"]]
    assert coefficients[: value_warmup + 1] == [0.05] * (value_warmup + 1)
    assert len(set(coefficients[value_warmup:])) == len(coefficients[value_warmup:])
    assert [logged[step]["train/kl"] == 0 for step in (1, 2, 3, 4)] == [step <= value_warmup + 1 for step in (1, 2, 3, 4)]


def test_a_finished_run_that_is_started_again_trains_no_further(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, num_batches=2, num_checkpoints=1)
    first = run(config, tmp_path, hooks=[WeightHook()])
    tracker = ListTracker()
    assert run(config, tmp_path, hooks=[WeightHook()], tracker=tracker) == first
    assert tracker.rows == []


def test_a_run_killed_between_an_evaluation_and_its_link_makes_the_link_on_resuming(policy_folder: Path, tmp_path: Path) -> None:
    config, hooks = config_of(policy_folder, num_batches=2, num_checkpoints=2), [ValuesByStep({0: 0.1, 1: 0.2, 2: 0.3})]
    run(config, tmp_path, hooks=[*hooks])
    (tmp_path / "best").unlink()
    (tmp_path / "best").symlink_to(Path("checkpoints") / "step-000001")
    outcome = run(config, tmp_path, hooks=[*hooks])
    assert (outcome.best_step, (tmp_path / "best").resolve().name) == (2, "step-000002")


def test_a_policy_whose_embeddings_are_tied_resumes_too(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    torch.manual_seed(2)
    folder = tmp_path / "tied"
    LlamaForCausalLM(tiny_llama(tokenizer, tie_word_embeddings=True)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = config_of(folder, num_batches=2, num_checkpoints=2, critic=CriticStart.policy)
    run(config, tmp_path / "whole", hooks=[WeightHook()])
    with pytest.raises(RuntimeError, match="the machine went away"):
        run(config, tmp_path / "torn", hooks=[WeightHook(dies_at=1)])
    run(config, tmp_path / "torn", hooks=[WeightHook()])
    whole, torn = (load_file(step_folder(tmp_path / name, 2) / "model.safetensors") for name in ("whole", "torn"))
    assert "lm_head.weight" not in whole
    assert {name: tensor.tolist() for name, tensor in whole.items()} == {name: tensor.tolist() for name, tensor in torn.items()}


def test_what_was_saved_between_two_checkpoints_goes_at_the_end(policy_folder: Path, tmp_path: Path) -> None:
    run(config_of(policy_folder, num_checkpoints=1, save_minutes=1e-9), tmp_path)
    assert (complete_steps(tmp_path), resumable_steps(tmp_path)) == ([4], [4])


def test_a_finished_run_that_lost_its_record_is_not_trained_again(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, num_batches=2, num_checkpoints=1)
    first = run(config, tmp_path, hooks=[WeightHook()])
    forget_states(tmp_path)
    tracker = ListTracker()
    assert run(config, tmp_path, hooks=[WeightHook()], tracker=tracker) == first
    assert tracker.rows == []


def test_a_damaged_state_is_named_and_the_one_before_it_leads_to_the_same_end(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder)
    whole = run(config, tmp_path / "whole", hooks=[WeightHook()])
    with pytest.raises(RuntimeError, match="the machine went away"):
        run(config, tmp_path / "torn", hooks=[WeightHook()], tracker=DyingTracker(4))
    damaged = step_folder(tmp_path / "torn", 3) / PROGRESS
    damaged.write_text(damaged.read_text()[:-9])
    said: list[str] = []
    assert run(config, tmp_path / "torn", hooks=[WeightHook()], said=said) == whole
    assert said[0].startswith(f"Skipping the damaged checkpoint {damaged.parent}: progress.json has ")
    assert said[1] == "resuming torn from step-000002"
    assert snapshot(tmp_path / "torn") == snapshot(tmp_path / "whole")
