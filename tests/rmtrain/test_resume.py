"""Whatever ends a run before its time, the next one goes on to the same bits; and hooks beside training land on their step."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from core.config import Dtype, LoraConfig, OptimConfig
from core.disk import MARKER
from core.engines.resume import STATE, forget_states, resumable_steps
from core.hooks.hook import Hook, eval_file, read_evaluation
from core.hooks.run_context import RunContext
from core.process.signals import Preempted
from core.records import CheckpointSaved
from core.runs.checkpoints import complete_steps, step_folder
from core.scorers.reward_model import RewardModelScorer
from evalhooks.checkpoints.held_out import HeldOutHook
from rmtrain.config import RewardModelConfig
from rmtrain.train import train
from tests.fakes import ListTracker, RecordingHook, SignallingProgress
from tests.rmtrain.test_train import PAIRS, config_of, fit, weights


class HeadHook(Hook):
    """Measures the weights that it is given."""

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        return {"head": float(event.model.get_parameter("score.weight").detach().double().sum()), "step": float(event.step)}


class FailingHook(Hook):
    """Cannot do it."""

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        raise ValueError("no such benchmark")


class SleepingHook(Hook):
    """Takes its time."""

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        time.sleep(60)
        return {}


class RewardHook(Hook):
    """Measures the sum of the rewards of all completions."""

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        scorer = RewardModelScorer(event.model, event.tokenizer, max_length=512, say=lambda _: None)
        rewards = scorer.score([pair.prompt for pair in PAIRS], [(pair.chosen, pair.rejected) for pair in PAIRS])
        return {"rewards": sum(sum(row) for row in rewards)}


class SignalHook(Hook):
    """Is told to stop while it works."""

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("a signal in the hooks must end the run at once")


def assert_same(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def stopped(config: RewardModelConfig, run_dir: Path, number: int, at: int, hooks: Sequence[Hook] = ()) -> tuple[str, int]:
    """Message and exit code of a run that gets a signal."""
    run_dir.mkdir(exist_ok=True)
    progress = SignallingProgress(at, during="training", number=number)
    with pytest.raises(Preempted) as error:
        train(config, RunContext(dir=run_dir, hooks=hooks, progress=progress, say=lambda _: None), preferences=PAIRS)
    assert isinstance(error.value.code, int)
    return str(error.value), error.value.code


EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}


@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_saves_at_the_next_step_and_the_next_run_goes_on_from_there(
    policy_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config = config_of(policy_folder, epochs=3)  # 9 steps, checkpoints at 3, 6 and 9
    fit(config, tmp_path / "whole")
    message, code = stopped(config, tmp_path / "torn", number, 4)
    by = "Ctrl-C" if number == signal.SIGINT else "a signal"
    assert message == f"stopped by {by} and saved at step 5 of 9; the same command goes on from there"
    assert code == EXIT_CODES[number]
    assert complete_steps(tmp_path / "torn") == [3, 5]
    said: list[str] = []
    fit(config, tmp_path / "torn", said=said)
    assert next(line for line in said if not line.startswith("warning: ")) == "resuming torn from step-000005"
    assert_same(tmp_path / "torn", tmp_path / "whole")
    # What was saved between two checkpoints is gone once it is not needed any more.
    assert complete_steps(tmp_path / "torn") == [3, 6, 9]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_is_stopped_between_two_rows_of_its_log_writes_the_rows_of_an_uninterrupted_one(
    policy_folder: Path, tmp_path: Path
) -> None:
    config = config_of(policy_folder, epochs=14, log_every=4, num_checkpoints=1)  # 42 steps, a row every 4
    timed = {"tokens_per_second", "pairs_per_second", "tflops", "hook_seconds"}

    def rows(tracker: ListTracker) -> dict[int, dict[str, float]]:
        return {step: {key: row[key] for key in row if key.split("/")[1] not in timed} for step, row in tracker.on("train/step").items()}

    _, whole = fit(config, tmp_path / "whole")
    stopped(config, tmp_path / "torn", signal.SIGTERM, 5)  # at step 6, of which 5 and 6 are in no row
    _, torn = fit(config, tmp_path / "torn")
    resumed, expected = rows(torn), rows(whole)
    assert min(resumed) == 8
    assert resumed == {step: row for step, row in expected.items() if step >= 8}
    assert_same(tmp_path / "torn", tmp_path / "whole")


def test_a_signal_during_the_hooks_ends_the_run_at_once_and_they_run_again(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder)
    (tmp_path / "run").mkdir()
    with pytest.raises(Preempted):
        train(config, RunContext(dir=tmp_path / "run", hooks=[SignalHook()], say=lambda _: None), preferences=PAIRS)
    assert complete_steps(tmp_path / "run") == [2]
    _, tracker = fit(config, tmp_path / "run", [RecordingHook(quality=1.0)])
    assert sorted(tracker.on("checkpoint/step")) == [2, 4, 6]


def test_a_torn_checkpoint_is_skipped_with_a_line_and_the_one_before_is_gone_on_from(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, epochs=3)
    fit(config, tmp_path / "whole")
    stopped(config, tmp_path / "torn", signal.SIGTERM, 7)
    assert resumable_steps(tmp_path / "torn") == [6, 8]
    (step_folder(tmp_path / "torn", 8) / MARKER).unlink()
    said: list[str] = []
    fit(config, tmp_path / "torn", said=said)
    said = [line for line in said if not line.startswith("warning: ")]
    assert said[0].startswith("Skipping the torn checkpoint ")
    assert "step-000008" in said[0]
    assert said[1] == "resuming torn from step-000006"
    assert_same(tmp_path / "torn", tmp_path / "whole")


def test_without_a_whole_checkpoint_training_begins_anew(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder)
    fit(config, tmp_path / "whole")
    stopped(config, tmp_path / "torn", signal.SIGTERM, 1)
    assert complete_steps(tmp_path / "torn") == [2]
    (step_folder(tmp_path / "torn", 2) / MARKER).unlink()
    fit(config, tmp_path / "torn")
    assert_same(tmp_path / "torn", tmp_path / "whole")


def test_two_states_are_kept_while_a_run_is_under_way_and_the_last_one_behind_it(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, epochs=3, save_minutes=1e-9)
    stopped(config, tmp_path / "run", signal.SIGTERM, 7)
    assert complete_steps(tmp_path / "run") == [3, 6, 7, 8]
    assert resumable_steps(tmp_path / "run") == [7, 8]
    fit(config, tmp_path / "run")
    assert complete_steps(tmp_path / "run") == [3, 6, 9]
    assert resumable_steps(tmp_path / "run") == [9]
    forget_states(tmp_path / "run")
    assert complete_steps(tmp_path / "run") == [3, 6, 9]
    assert resumable_steps(tmp_path / "run") == []


class FallingHook(Hook):
    """Finds the first checkpoint the best."""

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        return {"held_out/accuracy": 1 / event.step}


def test_a_run_that_keeps_the_best_and_the_last_goes_on_to_the_same_bits_and_says_why_others_are_gone(
    policy_folder: Path, tmp_path: Path
) -> None:
    config = config_of(policy_folder, epochs=4, num_checkpoints=4, keep=["best", "last"])  # checkpoints at 3, 6, 9 and 12
    fit(config, tmp_path / "whole", [FallingHook()])
    assert complete_steps(tmp_path / "whole") == [3, 12]
    assert (tmp_path / "whole" / "best").resolve().name == "step-000003"
    assert [eval_file(tmp_path / "whole", step).exists() for step in (3, 6, 9, 12)] == [True] * 4
    stopped(config, tmp_path / "torn", signal.SIGTERM, 10, [FallingHook()])
    assert complete_steps(tmp_path / "torn") == [3, 9, 11]  # 6 is neither the best nor needed to go on
    eval_file(tmp_path / "torn", 6).unlink()  # as if the disk had lost it
    said: list[str] = []
    fit(config, tmp_path / "torn", [FallingHook()], said=said)
    assert complete_steps(tmp_path / "torn") == [3, 12]
    assert "the hooks of step 6 cannot run again: its weights are gone (keep=['best', 'last'])" in said
    assert_same(tmp_path / "torn", tmp_path / "whole")


def test_a_finished_run_that_lost_its_record_is_not_trained_again(policy_folder: Path, tmp_path: Path) -> None:
    config, hook = config_of(policy_folder), RecordingHook(quality=1.0)
    first, _ = fit(config, tmp_path / "run", [hook])
    forget_states(tmp_path / "run")
    again, tracker = fit(config, tmp_path / "run", [hook])
    assert (again.step, again.metrics, again.best_step) == (first.step, first.metrics, first.best_step)
    assert tracker.rows == []
    eval_file(tmp_path / "run", 4).unlink()  # something is left to do, and no state to do it from
    _, tracker = fit(config, tmp_path / "run", [hook])
    assert sorted(tracker.on("checkpoint/step")) == [2, 4, 6]


@pytest.mark.parametrize(("kills", "phases"), [(6, 2), pytest.param(20, 4, marks=pytest.mark.long)])
def test_kills_at_random_moments_change_no_bit(policy_folder: Path, tmp_path: Path, kills: int, phases: int) -> None:
    script = [sys.executable, "-m", "tests.rmtrain.kills", str(policy_folder), str(tmp_path), str(kills), "0"]
    ended = subprocess.run(script, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert len(found["killed_at"]) == kills
    assert len(set(found["killed_at"])) >= phases  # they fell into different phases of the run
    assert len(set(found["hashes"])) == 1, found


def test_hooks_in_a_process_of_their_own_give_what_they_give_inline_on_the_right_step(policy_folder: Path, tmp_path: Path) -> None:
    inline, _ = fit(config_of(policy_folder), tmp_path / "inline", [HeadHook()])
    said: list[str] = []
    separate, tracker = fit(config_of(policy_folder), tmp_path / "separate", [HeadHook()], separate="", said=said)
    for step in (2, 4, 6):
        ours, theirs = (read_evaluation(tmp_path / name, step) for name in ("separate", "inline"))
        assert ours == theirs
        assert tracker.on("checkpoint/step")[step]["step"] == step
        assert tracker.on("train/step")[step]["train/hook_seconds"] > 0
    assert separate.metrics == inline.metrics
    assert separate.hooks_s > 0
    assert not list((tmp_path / "separate" / "evals").glob("*.process"))


def test_hooks_that_fail_in_their_process_fail_the_run_with_their_log_and_run_again(policy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"the hooks of step 6 failed in their process \(ValueError: no such benchmark\); see .*output\.log"
    ):
        fit(config_of(policy_folder, num_checkpoints=1), tmp_path / "run", [FailingHook()], separate="")
    assert complete_steps(tmp_path / "run") == [6]
    assert not eval_file(tmp_path / "run", 6).exists()
    outcome, _ = fit(config_of(policy_folder, num_checkpoints=1), tmp_path / "run", [HeadHook()], separate="")
    assert outcome.metrics["step"] == 6.0


def test_the_best_checkpoint_is_pointed_at(policy_folder: Path, tmp_path: Path) -> None:
    class Falling(Hook):
        def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
            return {"rewardbench2/overall": {2: 0.5, 4: 0.7, 6: 0.6}[event.step]}

    outcome, _ = fit(config_of(policy_folder), tmp_path / "run", [Falling()])
    assert (outcome.best_step, outcome.best_metric, outcome.best["rewardbench2/overall"]) == (4, "rewardbench2/overall", 0.7)
    assert (tmp_path / "run" / "best").resolve() == step_folder(tmp_path / "run", 4).resolve()
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


def test_a_checkpoint_whose_metric_is_no_number_is_told_and_is_never_the_best(policy_folder: Path, tmp_path: Path) -> None:
    class Broken(Hook):
        def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
            return {"rewardbench2/overall": {2: math.nan, 4: 0.7, 6: math.inf}[event.step]}

    said: list[str] = []
    outcome, _ = fit(config_of(policy_folder), tmp_path / "run", [Broken()], said=said)
    assert (outcome.best_step, outcome.best_metric) == (4, "rewardbench2/overall")
    assert "rewardbench2/overall has no finite value at step 2, 6, so the best checkpoint is one of the others" in said


def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_change(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, num_checkpoints=6)
    config.optim = OptimConfig(lr=1e30)
    with pytest.raises(ValueError, match=r"earlier checkpoints are kept\. Lower optim\.lr=1e\+30"):
        fit(config, tmp_path / "run")


def test_what_killed_processes_left_half_written_or_half_removed_is_cleared_away(policy_folder: Path, tmp_path: Path) -> None:
    stopped(config_of(policy_folder), tmp_path / "run", signal.SIGTERM, 2)
    for name in (".tmp-step-000003-elsewhere-1", ".tmp-old-step-000001"):
        (tmp_path / "run" / "checkpoints" / name / STATE).mkdir(parents=True)
    fit(config_of(policy_folder), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.startswith(".")] == []


def test_hooks_beside_training_end_with_a_training_that_fails(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, num_checkpoints=6)
    config.optim = OptimConfig(lr=1e30, warmup_ratio=0.4)  # the first step has a rate of zero, and is saved
    with pytest.raises(ValueError, match="Training stops; earlier checkpoints are kept"):
        fit(config, tmp_path / "run", [SleepingHook()], separate="")
    deadline = time.monotonic() + 30
    while subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline, "the hooks outlived the training"
        time.sleep(0.05)


def test_an_adapter_measures_the_same_inline_and_in_a_process_of_its_own(policy_folder: Path, tmp_path: Path) -> None:
    found: list[Mapping[str, float]] = []
    for name, separate in (("inline", None), ("separate", "")):
        config = config_of(policy_folder, num_checkpoints=1, lora=LoraConfig(rank=4))
        config.model.dtype = Dtype.bf16
        hook = HeldOutHook(PAIRS, max_length=512)
        outcome, _ = fit(config, tmp_path / name, [hook, RewardHook()], separate=separate)
        found.append(outcome.metrics)
    assert found[0] == found[1]


def test_a_metric_for_the_best_that_is_not_measured_is_told_at_the_first_checkpoint(policy_folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    outcome, _ = fit(config_of(policy_folder, best_metric="rewardbench3"), tmp_path / "run", [RecordingHook(quality=1.0)], said=said)
    line = "best_metric=rewardbench3 was not measured, so the last checkpoint counts as the best; measured: quality"
    assert said.count(line) == 2  # then, and at the end
    assert (outcome.best_step, outcome.best_metric) == (6, "")
