"""A run that is opened again has every evaluation in its log, once, whenever its last session ended."""

import json
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.disk import write_json
from core.hooks.hook import eval_file, log_unlogged, read_evaluation, rewind, run_hooks
from core.records import AXIS, CheckpointSaved
from core.runs.tracking import METRICS, JsonlTracker, read_metrics
from tests.fakes import ListTracker, RecordingHook


class DeadTracker(ListTracker):
    """Stands for a process that dies before it logs."""

    def log(self, metrics: object, *, axis: str, step: int) -> None:
        raise RuntimeError("the machine went away")


def reopened(run_dir: Path) -> list[str]:
    said: list[str] = []
    log_unlogged(run_dir, run_dir / METRICS, JsonlTracker(run_dir / METRICS), said.append)
    return said


def logged(run_dir: Path) -> list[tuple[int, float]]:
    """Step and accuracy of every line in the log."""
    lines = [json.loads(line) for line in (run_dir / METRICS).read_text().splitlines()]
    return [(line[AXIS], line["accuracy"]) for line in lines]


def test_metrics_whose_process_died_before_it_logged_them_are_logged_once(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    event = CheckpointSaved(step=4, num_steps=4, path=tmp_path, run_dir=tmp_path, model=policy, tokenizer=tokenizer)
    with pytest.raises(RuntimeError, match="the machine went away"):
        run_hooks([RecordingHook(accuracy=0.5)], event, DeadTracker())
    for _ in range(2):
        assert reopened(tmp_path) == []
        assert logged(tmp_path) == [(4, 0.5)]


def test_only_what_is_not_logged_is_added_and_what_hooks_beside_training_left_goes(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path / METRICS)
    for step in (2, 4, 6):
        write_json(eval_file(tmp_path, step), {AXIS: step, "accuracy": step / 10})
    tracker.log({"accuracy": 0.4}, axis=AXIS, step=4)
    tracker.log({"accuracy": 0.0}, axis="train/step", step=2)  # another axis
    left = tmp_path / "evals" / "step-000006.process"
    left.mkdir()
    (left / "output.log").write_text("measuring step 6")
    (tmp_path / "evals" / "notes.json").write_text("mine")
    reopened(tmp_path)
    assert {step: row["accuracy"] for step, row in read_metrics(tmp_path / METRICS, axis=AXIS).items()} == {2: 0.2, 4: 0.4, 6: 0.6}
    assert len((tmp_path / METRICS).read_text().splitlines()) == 4
    assert not left.exists()


@pytest.mark.parametrize(("step", "kept"), [(4, [0, 2, 4]), (3, [0, 2]), (0, [])])
def test_what_was_logged_and_measured_after_the_step_that_a_run_goes_on_from_is_taken_back(
    tmp_path: Path, step: int, kept: list[int]
) -> None:
    tracker = JsonlTracker(tmp_path / METRICS)
    for each in (0, 2, 4, 6):
        write_json(eval_file(tmp_path, each), {AXIS: each, "accuracy": 0.5})
        tracker.log({"accuracy": 0.5}, axis=AXIS, step=each)
        tracker.log({"train/loss": 0.5}, axis="train/step", step=each)
    rewind(tmp_path, step)
    assert list(read_metrics(tmp_path / METRICS, axis=AXIS)) == list(read_metrics(tmp_path / METRICS, axis="train/step")) == kept
    assert [each for each in (0, 2, 4, 6) if eval_file(tmp_path, each).exists()] == kept
    tracker.log({"accuracy": 0.6}, axis=AXIS, step=8)
    assert list(read_metrics(tmp_path / METRICS, axis=AXIS)) == [*kept, 8]
    rewind(tmp_path / "elsewhere", step)  # a run that has logged nothing


def test_a_line_that_was_torn_counts_as_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(eval_file(tmp_path, 2), {AXIS: 2, "accuracy": 0.2})
    (tmp_path / METRICS).write_text('{"axis": "checkpoint/step", "checkpoint/step": 2, "accur')
    reopened(tmp_path)
    assert logged(tmp_path) == [(2, 0.2)]
    assert capsys.readouterr().err == f"{tmp_path / METRICS}: the last line was not written completely; it is dropped.\n"


def test_an_evaluation_that_is_missing_is_written_anew_from_the_log(tmp_path: Path) -> None:
    JsonlTracker(tmp_path / METRICS).log({"accuracy": 0.5}, axis=AXIS, step=0)
    assert reopened(tmp_path) == []
    assert not (tmp_path / "evals").exists()  # a run that writes none, such as that of a benchmark
    write_json(eval_file(tmp_path, 2), {AXIS: 2, "accuracy": 0.2})
    assert reopened(tmp_path) == [f"{eval_file(tmp_path, 0)} was missing; written anew from metrics.jsonl"]
    assert read_evaluation(tmp_path, 0) == {AXIS: 0, "accuracy": 0.5}
    assert logged(tmp_path) == [(0, 0.5), (2, 0.2)]


@pytest.mark.parametrize("content", ["", '{"accuracy": 0.', "[]", '{"accuracy": null}'])
def test_a_broken_evaluation_is_written_anew_from_the_log_or_else_measured_again(tmp_path: Path, content: str) -> None:
    JsonlTracker(tmp_path / METRICS).log({"accuracy": float("nan"), "score": 2.0}, axis=AXIS, step=2)
    for step in (2, 4):
        eval_file(tmp_path, step).parent.mkdir(exist_ok=True)
        eval_file(tmp_path, step).write_text(content)
    said = reopened(tmp_path)
    assert str(read_evaluation(tmp_path, 2)) == str({AXIS: 2.0, "accuracy": float("nan"), "score": 2.0})
    assert not eval_file(tmp_path, 4).exists()
    assert said == [
        f"{eval_file(tmp_path, 2)} could not be read; written anew from metrics.jsonl",
        f"{eval_file(tmp_path, 4)} could not be read; removed, so the hooks of step 4 run again",
    ]
    assert reopened(tmp_path) == []
