"""Hooks run on complete checkpoints, in any trainer of transformers, and what they measure reaches the tracker and a file."""

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainerControl, TrainerState, TrainingArguments

from core.disk import write_json
from core.hooks.hook import Hook, RunParts, SharedHook, best_step, eval_file, read_evaluation, read_evaluations, run_hooks
from core.hooks.trainer_callback import HookCallback, Place
from core.records import AXIS, CheckpointSaved, RunEnded
from tests.fakes import ListTracker, RecordingHook


class ModeHook(Hook):
    """Notes whether the model was in training mode, and which files its checkpoint held."""

    def __init__(self) -> None:
        self.training: list[bool] = []
        self.files: list[set[str]] = []

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        self.training.append(event.model.training)
        self.files.append({file.name for file in event.path.glob("*")})
        return {}


def saved(run_dir: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, **metrics: float) -> CheckpointSaved:
    return CheckpointSaved(
        step=12, num_steps=20, path=run_dir / "checkpoints", run_dir=run_dir, model=model, tokenizer=tokenizer, metrics=metrics
    )


def test_the_metrics_of_all_hooks_and_of_the_trainer_go_to_the_tracker_and_to_a_file(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    tracker = ListTracker()
    hooks = [RecordingHook(accuracy=0.5), RecordingHook(score=2.0)]
    event = saved(tmp_path, policy, tokenizer, kl=0.25)
    merged = {"kl": 0.25, "accuracy": 0.5, "score": 2.0}
    assert run_hooks(hooks, event, tracker) == merged
    assert [hook.events for hook in hooks] == [[event], [event]]
    assert tracker.rows == [("checkpoint/step", 12, merged)]
    assert json.loads((tmp_path / "evals" / "step-000012.json").read_text()) == {"checkpoint/step": 12, **merged}


def test_the_file_of_a_step_is_named_by_six_digits() -> None:
    assert eval_file(Path("run"), 7) == Path("run/evals/step-000007.json")


def test_a_step_without_hooks_still_has_its_file(tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert run_hooks([], saved(tmp_path, policy, tokenizer), ListTracker()) == {}
    assert json.loads(eval_file(tmp_path, 12).read_text()) == {AXIS: 12}


@pytest.mark.parametrize("training", [True, False])
def test_hooks_see_the_model_in_evaluation_mode_and_the_trainer_gets_its_mode_back(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, training: bool
) -> None:
    model = copy.deepcopy(policy).train(training)
    hook = ModeHook()
    run_hooks([hook], saved(tmp_path, model, tokenizer), ListTracker())
    assert hook.training == [False]
    assert model.training is training


class Broken(Hook):
    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        raise RuntimeError("no judge")


class Half(SharedHook):
    def measure(self, event: CheckpointSaved, parts: RunParts) -> Mapping[str, float]:
        return {"half": 1.0 / (1 + parts.world.size)}


class HalfAndMore(Half):
    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        return {**super().on_checkpoint(event), "more": 2.0}


def test_a_shared_hook_works_alone_and_one_made_of_it_is_called_by_its_own_method(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    event = saved(tmp_path, policy, tokenizer)
    assert Half().on_checkpoint(event) == {"half": 0.5}
    assert run_hooks([Half()], event, ListTracker()) == {"half": 0.5}
    assert run_hooks([HalfAndMore()], event, ListTracker()) == {"half": 0.5, "more": 2.0}


def test_a_hook_that_raises_leaves_no_file_so_that_a_resumed_run_calls_it_again(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    tracker = ListTracker()
    with pytest.raises(RuntimeError, match="no judge"):
        run_hooks([RecordingHook(accuracy=0.5), Broken()], saved(tmp_path, policy, tokenizer), tracker)
    assert tracker.rows == []
    assert not eval_file(tmp_path, 12).exists()


def test_a_hook_that_overrides_nothing_measures_nothing(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert Hook().on_checkpoint(saved(Path("run"), policy, tokenizer)) == {}
    assert Hook().on_end(RunEnded(run_dir=Path("run"), step=12)) is None


def arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=1,
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )


def test_the_callback_runs_hooks_at_every_save_of_a_trainer_of_transformers(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    recording, mode, tracker = RecordingHook(accuracy=0.5), ModeHook(), ListTracker()
    ids = tokenizer("Name a fruit.")["input_ids"]
    trainer = Trainer(
        model=copy.deepcopy(policy),
        args=arguments(tmp_path),
        train_dataset=Dataset.from_list([{"input_ids": ids, "labels": ids}] * 2),
        callbacks=[HookCallback([recording, mode], tracker, tokenizer)],
    )
    trainer.train()
    assert tracker.rows == [(AXIS, 1, {"accuracy": 0.5}), (AXIS, 2, {"accuracy": 0.5})]
    assert [json.loads(eval_file(tmp_path, step).read_text()) for step in (1, 2)] == [{AXIS: s, "accuracy": 0.5} for s in (1, 2)]
    assert [event.path for event in recording.events] == [tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"]
    assert [(event.step, event.num_steps, event.run_dir) for event in recording.events] == [(1, 2, tmp_path), (2, 2, tmp_path)]
    assert all("model.safetensors" in files for files in mode.files)
    assert mode.training == [False, False]


def test_the_callback_tells_the_hooks_once_that_training_has_ended(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    hook = RecordingHook()
    callback = HookCallback([hook], ListTracker(), tokenizer)
    for is_first in (False, True):
        state = TrainerState(global_step=4, max_steps=4, is_world_process_zero=is_first)
        callback.on_train_end(arguments(tmp_path), state, TrainerControl(), model=policy)
    assert hook.ended == [RunEnded(run_dir=tmp_path, step=4)]


def test_a_loop_that_keeps_its_checkpoints_elsewhere_says_where_and_hears_what_was_measured(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    hook, heard = RecordingHook(accuracy=0.5), list[tuple[int, Mapping[str, float]]]()
    place = Place(step=1, num_steps=2, path=tmp_path / "checkpoints" / "step-000001", run_dir=tmp_path, metrics={"kl": 0.25})
    callback = HookCallback(
        [hook], ListTracker(), tokenizer, place=lambda args, state: place, then=lambda step, metrics: heard.append((step, metrics))
    )
    state = TrainerState(global_step=8, max_steps=16)
    callback.on_save(arguments(tmp_path / "scratch"), state, TrainerControl(), model=policy)
    callback.on_train_end(arguments(tmp_path / "scratch"), state, TrainerControl(), model=policy)
    assert [(event.step, event.num_steps, event.path, event.run_dir) for event in hook.events] == [(1, 2, place.path, tmp_path)]
    assert heard == [(1, {"kl": 0.25, "accuracy": 0.5})]
    assert hook.ended == [RunEnded(run_dir=tmp_path, step=1)]


def test_of_a_model_with_an_adapter_around_it_the_hooks_see_the_model(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    plain, hook = copy.deepcopy(policy), RecordingHook()
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    with warnings.catch_warnings():  # peft asks transformers for an attribute under its old name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        wrapped = get_peft_model(plain, config)
    state = TrainerState(global_step=1, max_steps=2)
    HookCallback([hook], ListTracker(), tokenizer).on_save(arguments(tmp_path), state, TrainerControl(), model=wrapped)
    assert hook.events[0].model is plain


def test_the_callback_is_silent_on_every_process_but_the_first(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    hook = RecordingHook(accuracy=0.5)
    callback = HookCallback([hook], ListTracker(), tokenizer)
    for is_first in (False, True):
        state = TrainerState(global_step=3, max_steps=4, is_world_process_zero=is_first)
        callback.on_save(arguments(tmp_path), state, TrainerControl(), model=policy)
        assert len(hook.events) == is_first


def test_a_metric_that_is_no_finite_number_is_written_as_text(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    run_hooks([RecordingHook(score=float("nan"))], saved(tmp_path, policy, tokenizer), ListTracker())
    assert json.loads(eval_file(tmp_path, 12).read_text())["score"] == "NaN"


def test_a_rerun_of_the_hooks_of_a_step_replaces_its_file(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_json(eval_file(tmp_path, 12), {AXIS: 12, "stale": 1.0})
    run_hooks([RecordingHook(accuracy=0.5)], saved(tmp_path, policy, tokenizer), ListTracker())
    assert json.loads(eval_file(tmp_path, 12).read_text()) == {AXIS: 12, "accuracy": 0.5}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({2: 0.6, 4: 0.7, 6: 0.5}, 4),
        ({6: 0.7, 4: 0.7, 2: 0.6}, 4),  # the earlier of two equal ones, in whatever order they come
        ({2: -0.7, 4: -0.6}, 4),
        ({0: 0.7, 2: 0.7}, 0),
        ({2: float("nan"), 4: 0.1}, 4),
        ({2: 0.1, 4: float("nan"), 6: float("inf")}, 2),
        ({2: float("nan"), 4: float("-inf")}, None),
        ({}, None),
    ],
)
def test_the_best_step_is_the_earliest_with_the_highest_finite_value(values: dict[int, float], expected: int | None) -> None:
    assert best_step({step: {"accuracy": value, "other": -value} for step, value in values.items()}, "accuracy") == expected


def test_steps_at_which_the_metric_was_not_measured_are_no_candidates_for_the_best() -> None:
    evaluations = {2: {"other": 9.0}, 4: {"accuracy": 0.1}}
    assert best_step(evaluations, "accuracy") == 4
    assert best_step(evaluations, "margin") is None


def test_evaluations_that_cannot_be_read_are_named_or_skipped_with_a_line(tmp_path: Path) -> None:
    write_json(eval_file(tmp_path, 2), {AXIS: 2, "accuracy": 0.5})
    eval_file(tmp_path, 4).write_text('{"accuracy": 0.')
    write_json(eval_file(tmp_path, 6), {AXIS: 6, "accuracy": "high"})
    for step, why in ((4, "is no JSON"), (6, "holds a metric that is no number")):
        with pytest.raises(ValueError, match=f"step-00000{step}.json {why}.* remove it; the command that made the run then runs the hooks"):
            read_evaluation(tmp_path, step)
    with pytest.raises(ValueError, match=r"step-000004\.json is no JSON"):
        read_evaluations(tmp_path, [2, 4, 8])
    said: list[str] = []
    assert read_evaluations(tmp_path, [2, 4, 6, 8], skip=said.append) == {2: {AXIS: 2, "accuracy": 0.5}}
    assert [line.partition(":")[0] for line in said] == [f"skipping step {step} of {tmp_path.name}" for step in (4, 6)]
