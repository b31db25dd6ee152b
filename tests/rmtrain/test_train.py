"""Training of a tiny reward model from end to end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from core.checkpoint import complete_steps, step_folder
from core.config import ModelConfig, OptimConfig
from core.hooks import Hook, eval_file
from core.progress import NoProgress
from core.records import CheckpointSaved, Preference, user
from core.reward import RewardModelScorer
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.train import Outcome, checkpoint_steps, train
from tests.fakes import ListTracker, RecordingHook

FRUITS = ("plum", "pear", "fig", "apple", "melon", "grape", "lemon", "cherry")
PAIRS = [
    Preference(prompt=user(f"Name a fruit, {i}."), chosen=f"A {fruit} is a fruit.", rejected=f"No, the {fruit}.")
    for i in range(3)
    for fruit in FRUITS
]


def config_of(folder: Path, **options: object) -> RewardModelConfig:
    settings: dict[str, object] = {"batch_size": 8, "micro_batch_size": 8, "epochs": 2, "num_checkpoints": 3} | options
    return RewardModelConfig(
        model=ModelConfig(path=str(folder)),
        data=PreferenceDataConfig(paths=["unused.jsonl"]),
        optim=OptimConfig(lr=3e-3),
        **settings,  # type: ignore[arg-type]
    )


def fit(
    config: RewardModelConfig, run_dir: Path, hooks: Sequence[Hook] = (), pairs: Sequence[Preference] = PAIRS
) -> tuple[Outcome, ListTracker]:
    run_dir.mkdir(exist_ok=True)
    tracker = ListTracker()
    said: list[str] = []
    return train(config, run_dir, preferences=pairs, hooks=hooks, tracker=tracker, progress=NoProgress(), say=said.append), tracker


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


def test_checkpoints_are_evenly_spaced_and_the_last_is_the_end() -> None:
    assert checkpoint_steps(10, 3) == [4, 7, 10]
    assert checkpoint_steps(2, 5) == [1, 2]


def test_training_learns_its_pairs_and_calls_the_hooks_at_every_checkpoint(policy_folder: Path, tmp_path: Path) -> None:
    hook = RecordingHook(quality=0.5)
    outcome, tracker = fit(config_of(policy_folder), tmp_path / "run", [hook])
    # 24 pairs in batches of 8 are 3 steps an epoch, 6 in all: checkpoints at 2, 4 and 6.
    assert complete_steps(tmp_path / "run") == [2, 4, 6] == sorted(tracker.on("checkpoint/step"))
    assert outcome.step == 6
    assert outcome.metrics["quality"] == 0.5
    train_log = tracker.on("train/step")
    assert {"train/accuracy", "train/margin", "train/chosen_reward"} <= train_log[max(train_log)].keys()


def test_the_saved_folder_loads_elsewhere_and_scores_what_training_left(policy_folder: Path, tmp_path: Path) -> None:
    outcome, _ = fit(config_of(policy_folder), tmp_path / "run")
    model = AutoModelForSequenceClassification.from_pretrained(outcome.checkpoint).eval()
    scorer = RewardModelScorer(model, AutoTokenizer.from_pretrained(outcome.checkpoint))
    scores = scorer.score([pair.prompt for pair in PAIRS], [(pair.chosen, pair.rejected) for pair in PAIRS])
    assert sum(chosen > rejected for chosen, rejected in scores) >= 22  # of 24


def test_the_learning_rate_ends_at_zero_at_the_last_true_step(policy_folder: Path, tmp_path: Path) -> None:
    fit(config_of(policy_folder, epochs=3, num_checkpoints=1), tmp_path / "run")
    stored = torch.load(step_folder(tmp_path / "run", 9) / "scheduler.pt", weights_only=True)
    assert stored["last_epoch"] == 9
    assert stored["_last_lr"] == [0.0, 0.0]


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


def test_pairs_beyond_the_length_are_dropped_and_counted(policy_folder: Path, tmp_path: Path) -> None:
    long = Preference(prompt=user("Name a fruit. " * 60), chosen="A plum.", rejected="No.")
    outcome, _ = fit(config_of(policy_folder, max_length=200), tmp_path / "run", pairs=[*PAIRS, long])
    assert (outcome.num_pairs, outcome.num_dropped) == (24, 1)
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
