"""Training of a tiny reward model from end to end."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from core.config import ModelConfig, OptimConfig
from core.hooks.hook import Hook, eval_file
from core.hooks.run_context import RunContext
from core.records import CheckpointSaved, Preference, user
from core.runs.checkpoints import complete_steps, step_folder
from core.scorers.reward_model import RewardModelScorer
from rmtrain.batches import planned_steps
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.run import RMResult, choose_best
from rmtrain.train import train
from tests.fakes import ListTracker, RecordingHook

FRUITS = ("plum", "pear", "fig", "apple", "melon", "grape", "lemon", "cherry")
PAIRS = [
    Preference(prompt=user(f"Name a fruit, {i}."), chosen=f"A {fruit} is a fruit.", rejected=f"No, the {fruit}.")
    for i in range(3)
    for fruit in FRUITS
]


def config_of(folder: Path, **options: object) -> RewardModelConfig:
    settings: dict[str, object] = {"batch_size": 8, "epochs": 2, "num_checkpoints": 3, "log_every": 1, "keep": "all"} | options
    return RewardModelConfig(
        model=ModelConfig(path=str(folder)),
        data=PreferenceDataConfig(paths=["unused.jsonl"]),
        optim=OptimConfig(lr=3e-3),
        **settings,  # type: ignore[arg-type]
    )


def fit(
    config: RewardModelConfig,
    run_dir: Path,
    hooks: Sequence[Hook] = (),
    pairs: Sequence[Preference] = PAIRS,
    *,
    separate: str | None = None,
    said: list[str] | None = None,
) -> tuple[RMResult, ListTracker]:
    run_dir.mkdir(exist_ok=True)
    tracker = ListTracker()
    say = (said if said is not None else []).append
    context = RunContext(dir=run_dir, hooks=hooks, tracker=tracker, say=say)
    outcome = train(config, context, preferences=pairs, separate=separate)
    return outcome, tracker


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(step_folder(run_dir, complete_steps(run_dir)[-1]) / "model.safetensors")


class DyingHook(Hook):
    """Raises at its second checkpoint, as a machine might."""

    def __init__(self) -> None:
        self.calls = 0

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("the power went off")
        return {}


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"num_checkpoints": 3}, [4, 7, 10]),
        ({"num_checkpoints": 20}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"checkpoint_every": 4}, [4, 8, 10]),
        ({"checkpoint_every": 5}, [5, 10]),
        ({"checkpoint_every": 99}, [10]),
        # 10 steps are 2 epochs of 5: half an epoch is 2.5 steps, each multiple rounded up by itself.
        ({"checkpoint_every": 0.5}, [3, 5, 8, 10]),
        ({"checkpoint_every": 0.9}, [5, 9, 10]),
        # Far below a step: at every one.
        ({"checkpoint_every": 0.01}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_checkpoints_come_by_number_by_step_or_by_share_of_an_epoch_and_always_at_the_end(
    options: dict[str, Any], steps: list[int]
) -> None:
    assert planned_steps(config_of(Path("unused"), epochs=2, **options), 10) == steps


@pytest.mark.parametrize("every", [-1.0, 2.5])
def test_a_checkpoint_every_so_many_steps_needs_whole_ones(every: float) -> None:
    with pytest.raises(ValueError, match="checkpoint_every is"):
        config_of(Path("unused"), checkpoint_every=every)


def test_the_best_step_is_the_highest_in_the_metric_asked_for_or_the_first_that_there_is() -> None:
    evaluations = {
        2: {"rewardbench2/overall": 0.7, "held_out/accuracy": 0.5},
        4: {"rewardbench2/overall": 0.6, "held_out/accuracy": 0.8, "bon/average": float("nan")},
        6: {"rewardbench2/overall": 0.7, "held_out/accuracy": 0.8},
    }
    assert choose_best(evaluations, "") == ("rewardbench2/overall", 2)  # the earlier of two equal ones
    assert choose_best(evaluations, "held_out/accuracy") == ("held_out/accuracy", 4)
    assert choose_best({6: {"held_out/accuracy": 0.8}}, "") == ("held_out/accuracy", 6)
    assert choose_best({}, "") == ("", None)
    broken = {2: {"rewardbench2/overall": math.nan, "held_out/accuracy": 0.5}, 4: {"held_out/accuracy": 0.4}}
    assert choose_best(broken, "") == ("held_out/accuracy", 2)  # a metric without a finite value decides nothing
    assert choose_best(evaluations, "bon/average") == ("", None)  # measured once, as NaN


def test_training_learns_its_pairs_and_calls_the_hooks_at_every_checkpoint(policy_folder: Path, tmp_path: Path) -> None:
    hook = RecordingHook(quality=0.5)
    outcome, tracker = fit(config_of(policy_folder), tmp_path / "run", [hook])
    # 24 pairs in batches of 8 are 3 steps an epoch, 6 in all: checkpoints at 2, 4 and 6.
    assert complete_steps(tmp_path / "run") == [2, 4, 6] == sorted(tracker.on("checkpoint/step"))
    assert outcome.step == 6
    assert outcome.metrics["quality"] == 0.5
    train_log = tracker.on("train/step")
    assert {"train/accuracy", "train/margin", "train/chosen_reward"} <= train_log[max(train_log)].keys()


def test_a_short_run_has_ten_rows_of_its_log_or_one_a_step(policy_folder: Path, tmp_path: Path) -> None:
    # 3 steps an epoch: 6 steps are a row each, not one for all. 33 steps give rows of 3, of which the last ends at 33.
    _, tracker = fit(config_of(policy_folder, log_every=10), tmp_path / "short")
    assert list(tracker.on("train/step")) == [1, 2, 3, 4, 5, 6]
    _, tracker = fit(config_of(policy_folder, log_every=10, epochs=11, num_checkpoints=1), tmp_path / "longer")
    assert [step for step, row in tracker.on("train/step").items() if "train/loss" in row] == list(range(3, 34, 3))


def test_the_saved_folder_loads_elsewhere_and_scores_what_training_left(policy_folder: Path, tmp_path: Path) -> None:
    outcome, _ = fit(config_of(policy_folder), tmp_path / "run")
    model = AutoModelForSequenceClassification.from_pretrained(outcome.checkpoint).eval()
    scorer = RewardModelScorer(model, AutoTokenizer.from_pretrained(outcome.checkpoint))
    scores = scorer.score([pair.prompt for pair in PAIRS], [(pair.chosen, pair.rejected) for pair in PAIRS])
    assert sum(chosen > rejected for chosen, rejected in scores) >= 22  # of 24


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_logged_learning_rate_is_that_of_the_step(policy_folder: Path, tmp_path: Path, epochs: int) -> None:
    _, tracker = fit(config_of(policy_folder, epochs=epochs, num_checkpoints=1), tmp_path / "run")
    rates = [row["train/learning_rate"] for row in tracker.on("train/step").values()]
    # 3 steps an epoch; step k of n is taken at 3e-3 (1 - (k - 1) / n), so the first at the whole rate.
    assert rates == pytest.approx([3e-3 * (1 - k / (3 * epochs)) for k in range(3 * epochs)], abs=1e-12)
    assert rates[0] == 3e-3


def test_eight_micro_batches_of_one_are_one_of_eight(policy_folder: Path, tmp_path: Path) -> None:
    fit(config_of(policy_folder, num_checkpoints=1), tmp_path / "whole")
    fit(config_of(policy_folder, num_checkpoints=1, micro_batch_size=1), tmp_path / "split")
    whole, split = weights(tmp_path / "whole"), weights(tmp_path / "split")
    # Adam divides by the root of the second moment, which blows rounding up where gradients are tiny.
    for name, tensor in whole.items():
        assert torch.allclose(tensor, split[name], atol=2e-4), name


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(policy_folder: Path, tmp_path: Path) -> None:
    fit(config_of(policy_folder), tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power"):
        fit(config_of(policy_folder), tmp_path / "torn", [DyingHook()])
    assert complete_steps(tmp_path / "torn") == [2, 4]
    assert not eval_file(tmp_path / "torn", 4).exists()
    hook = RecordingHook(quality=1.0)
    _, tracker = fit(config_of(policy_folder), tmp_path / "torn", [hook])
    # The hook that had failed at step 4 is called first.
    assert sorted(tracker.on("checkpoint/step")) == [4, 6]
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "torn")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_finished_run_that_is_started_again_keeps_its_metrics(policy_folder: Path, tmp_path: Path) -> None:
    fit(config_of(policy_folder), tmp_path / "run", [RecordingHook(quality=0.7)])
    before = weights(tmp_path / "run")
    outcome, _ = fit(config_of(policy_folder), tmp_path / "run", [RecordingHook(quality=0.1)])
    assert outcome.metrics["quality"] == 0.7
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path / "run").items())


def test_pairs_beyond_the_length_are_dropped_or_cut_and_counted(policy_folder: Path, tmp_path: Path) -> None:
    long = Preference(prompt=user("Name a fruit. " * 60), chosen="A plum.", rejected="No.")
    said: list[str] = []
    outcome, _ = fit(config_of(policy_folder, max_length=200), tmp_path / "run", pairs=[*PAIRS, long], said=said)
    assert (outcome.num_pairs, outcome.num_dropped, outcome.num_cut) == (24, 1, 0)
    assert "dropped 1 of 25 pairs longer than max_length=200 tokens" in said
    outcome, _ = fit(config_of(policy_folder, max_length=200, overlong="cut"), tmp_path / "cut", pairs=[*PAIRS, long], said=said)
    assert (outcome.num_pairs, outcome.num_dropped, outcome.num_cut) == (25, 0, 1)
    assert "cut the prompts of 1 of 25 pairs at their beginning, to max_length=200 tokens" in said
    with pytest.raises(ValueError, match="raise max_length"):
        fit(config_of(policy_folder, max_length=3), tmp_path / "none")


def test_label_smoothing_and_margins_reach_the_loss(policy_folder: Path, tmp_path: Path) -> None:
    fit(config_of(policy_folder), tmp_path / "plain")
    fit(config_of(policy_folder, label_smoothing=0.2), tmp_path / "smooth")
    margins = [Preference(prompt=p.prompt, chosen=p.chosen, rejected=p.rejected, margin=2.0) for p in PAIRS]
    fit(config_of(policy_folder), tmp_path / "margin", pairs=margins)
    heads = [weights(tmp_path / name)["score.weight"] for name in ("plain", "smooth", "margin")]
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
