"""Hooks of a checkpoint give the same wherever they run: each on its own step, in order, and with their failure told."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from core.config import Dtype, LoraConfig, ModelConfig
from core.hooks.hook import Hook, eval_file, read_evaluation
from core.hooks.placement import InlineEvaluations, InMemory, Saved, SeparateEvaluations, missing_evaluations
from core.process.world import alone
from core.records import AXIS, CheckpointSaved
from core.runs.checkpoints import step_folder
from tests.fakes import ListTracker, RecordingHook

Checkpoint = Callable[[int], Saved]


class HeadHook(Hook):
    """Measures the head of the model, says so, and fails at step `fails_at`."""

    def __init__(self, *, fails_at: int = 0) -> None:
        self.fails_at = fails_at

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        print(f"measuring step {event.step}")
        if event.step == self.fails_at:
            raise ValueError("no such benchmark")
        return {"head": event.model.get_parameter("score.weight").detach().double().sum().item(), "of": float(event.step)}


class KilledHook(Hook):
    """Ends its process as the system does when memory runs out."""

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


class EndlessHook(Hook):
    """Writes the id of its process to `pid` in the folder of the run, and does not end."""

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        (event.run_dir / "pid.new").write_text(str(os.getpid()))
        (event.run_dir / "pid.new").rename(event.run_dir / "pid")
        time.sleep(600)
        return {}


@pytest.fixture
def checkpoint(reward_model_folder: Path, tmp_path: Path) -> Checkpoint:
    """Makes the checkpoint of a step, of a run of six."""

    def saved(step: int) -> Saved:
        shutil.copytree(reward_model_folder, step_folder(tmp_path, step))
        return Saved(step=step, num_steps=6, run_dir=tmp_path, base=ModelConfig(path=str(reward_model_folder)), lora=LoraConfig())

    return saved


@pytest.fixture
def head(reward_model: LlamaForSequenceClassification) -> float:
    return reward_model.get_parameter("score.weight").detach().double().sum().item()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def inline(hooks: list[Hook], tracker: ListTracker) -> InlineEvaluations:
    return InlineEvaluations(hooks, tracker, nullcontext, world=alone())


def test_a_separate_process_takes_no_file_of_the_current_folder_for_a_package(
    checkpoint: Checkpoint, head: float, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("current")
    (folder / "torch.py").write_text("raise SystemExit('this is not the package')")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))  # as Python does for `python -m` and for a program that lies there
    tracker = ListTracker()
    evaluations = SeparateEvaluations([HeadHook()], tracker, world=alone(), say=lambda line: None)
    evaluations.submit(checkpoint(2))
    evaluations.finish()
    assert tracker.on(AXIS) == {2: {"head": head, "of": 2.0}}


def test_inline_the_hooks_get_the_model_in_memory_or_else_the_one_on_disk(
    checkpoint: Checkpoint, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, head: float
) -> None:
    recording, tracker = RecordingHook(), ListTracker()
    evaluations = inline([recording, HeadHook()], tracker)
    evaluations.submit(checkpoint(2), InMemory(model=reward_model, tokenizer=tokenizer))
    evaluations.submit(checkpoint(4))
    evaluations.finish()
    assert recording.events[0].model is reward_model
    assert recording.events[1].model is not reward_model
    assert [(event.step, event.num_steps, event.path.name) for event in recording.events] == [(2, 6, "step-000002"), (4, 6, "step-000004")]
    assert tracker.on(AXIS) == {2: {"head": head, "of": 2.0}, 4: {"head": head, "of": 4.0}}
    seconds = [row["train/hook_seconds"] for row in tracker.on("train/step").values()]
    assert list(tracker.on("train/step")) == [2, 4]
    assert evaluations.waited == pytest.approx(sum(seconds))
    assert min(seconds) > 0


def test_inline_the_hooks_run_under_the_autocast_of_training(
    checkpoint: Checkpoint, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    seen: list[str] = []

    class Noting(Hook):
        def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
            seen.append("hook")
            return {}

    @contextmanager
    def autocast() -> Generator[None]:
        seen.append("entered")
        yield
        seen.append("left")

    entered: Callable[[], AbstractContextManager[None]] = autocast
    InlineEvaluations([Noting()], ListTracker(), entered, world=alone()).submit(
        checkpoint(2), InMemory(model=reward_model, tokenizer=tokenizer)
    )
    assert seen == ["entered", "hook", "left"]


def test_inline_a_failure_is_raised_at_once_and_leaves_the_evaluation_missing(
    checkpoint: Checkpoint, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    evaluations = inline([HeadHook(fails_at=4)], ListTracker())
    evaluations.submit(checkpoint(2), InMemory(model=reward_model, tokenizer=tokenizer))
    with pytest.raises(ValueError, match="no such benchmark"):
        evaluations.submit(checkpoint(4), InMemory(model=reward_model, tokenizer=tokenizer))
    assert missing_evaluations(tmp_path, [2, 4]) == [4]


class FormatHook(Hook):
    """The bits of a weight, and whether autocast is on."""

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        return {"bits": 8.0 * event.model.dtype.itemsize, "autocast": float(torch.is_autocast_enabled("cpu"))}


def test_separately_the_model_is_loaded_in_the_dtype_of_training(checkpoint: Checkpoint) -> None:
    tracker, saved = ListTracker(), checkpoint(2)
    evaluations = SeparateEvaluations([FormatHook()], tracker, world=alone(), say=lambda line: None)
    evaluations.submit(replace(saved, base=replace(saved.base, dtype=Dtype.bf16)))
    evaluations.finish()
    assert tracker.on(AXIS) == {2: {"bits": 16.0, "autocast": 0.0}}


def test_separately_checkpoints_are_measured_in_order_until_one_fails_and_its_log_is_told(
    checkpoint: Checkpoint, head: float, tmp_path: Path
) -> None:
    tracker, said = ListTracker(), list[str]()
    evaluations = SeparateEvaluations([HeadHook(fails_at=4)], tracker, world=alone(), say=said.append)
    for step in (2, 4, 6):
        evaluations.submit(checkpoint(step))
    assert tracker.rows == []  # training goes on meanwhile
    failure = r"the hooks of step 4 failed in their process \(ValueError: no such benchmark\); see .*step-000004\.process/output\.log\. "
    with pytest.raises(RuntimeError, match=failure + r"The checkpoint is complete: the same command runs them again\."):
        evaluations.finish()
    assert [(axis, step, sorted(metrics)) for axis, step, metrics in tracker.rows] == [
        (AXIS, 2, ["head", "of"]),
        ("train/step", 2, ["train/hook_seconds"]),
    ]
    assert tracker.on(AXIS)[2] == {"head": head, "of": 2.0}
    assert read_evaluation(tmp_path, 2) == {AXIS: 2, "head": head, "of": 2.0}
    assert said == ["waiting for the hooks of 3 checkpoint(s)", "measuring step 2"]
    assert [path.name for path in (tmp_path / "evals").glob("*.process")] == ["step-000004.process"]
    # The failure stays: nothing more is begun, `collect` is silent for the sake of other processes, and `submit` is not.
    evaluations.collect()
    with pytest.raises(RuntimeError, match="the hooks of step 4 failed"):
        evaluations.submit(checkpoint(5))
    assert missing_evaluations(tmp_path, [2, 4, 5, 6]) == [4, 5, 6]
    evaluations.close()


def test_a_process_of_hooks_that_the_system_kills_is_said_to_lack_memory(checkpoint: Checkpoint) -> None:
    evaluations = SeparateEvaluations([KilledHook()], ListTracker(), world=alone())
    evaluations.submit(checkpoint(2))
    with pytest.raises(RuntimeError, match=r"step 2 failed .*\(killed by SIGKILL, .* memory runs out: lower hooks\.batch_tokens"):
        evaluations.finish()


def test_closing_ends_the_process_of_the_hooks(checkpoint: Checkpoint, tmp_path: Path) -> None:
    evaluations = SeparateEvaluations([EndlessHook()], ListTracker(), world=alone())
    evaluations.submit(checkpoint(2))
    wait_for((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text())
    assert is_alive(pid)
    evaluations.close()
    assert not is_alive(pid)
    assert not eval_file(tmp_path, 2).exists()


def test_the_process_of_the_hooks_dies_with_the_one_that_trains(checkpoint: Checkpoint, tmp_path: Path, reward_model_folder: Path) -> None:
    checkpoint(2)
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.core.hooks.test_placement import *\n"
        "run_dir, base = Path(sys.argv[1]), ModelConfig(path=sys.argv[2])\n"
        "evaluations = SeparateEvaluations([EndlessHook()], ListTracker(), world=alone())\n"
        "evaluations.submit(Saved(step=2, num_steps=6, run_dir=run_dir, base=base, lora=LoraConfig()))\n"
        "time.sleep(600)\n"
    )
    training = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(reward_model_folder)])
    try:
        wait_for(lambda: (tmp_path / "pid").exists() or training.poll() is not None)
        pid = int((tmp_path / "pid").read_text())
        assert is_alive(pid)
    finally:
        training.kill()  # with a signal that nobody can act upon
        training.wait()
    wait_for(lambda: not is_alive(pid))
