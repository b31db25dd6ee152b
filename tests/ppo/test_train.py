"""The whole of PPO on a tiny policy: it learns, keeps what it promises on disk, and resumes bit for bit."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from core.config import ModelConfig, OptimConfig
from core.engines.resume import STATE, resumable_steps
from core.hooks.hook import Hook, read_evaluation
from core.models.load import load_policy
from core.progress import NoProgress
from core.records import AXIS, CheckpointSaved, Dialogue, Scorer, Tracker, user
from core.runs.checkpoints import complete_steps, step_folder
from ppo.config import KLConfig, MissingEOSConfig, OverlongConfig, PPOConfig, ShapingConfig
from ppo.guards import DivergenceError
from ppo.prompts import batch_prompts
from ppo.shaping import Moments, ScoreStatistics
from ppo.state import PROGRESS
from ppo.train import PPOResult, rewards, shaped, train
from tests.fakes import LengthScorer, ListTracker, RecordingHook, tiny_llama
from tests.ppo.episodes import episodes_with

PROMPTS = [user(f"Name {number} fruits.") for number in range(10)]


def config_of(folder: Path, **options: Any) -> PPOConfig:
    """Four batches of eight, each a checkpoint."""
    config = PPOConfig(
        model=ModelConfig(path=str(folder)),
        prompts=["."],
        optim=OptimConfig(lr=1e-3, warmup_ratio=0.25),
        num_batches=4,
        num_checkpoints=4,
        batch_size=8,
        minibatch_size=4,
        micro_batch_size=4,
        max_new_tokens=6,
    )
    return replace(config, **options)


def run(
    config: PPOConfig,
    run_dir: Path,
    *,
    hooks: list[Hook] | None = None,
    tracker: Tracker | None = None,
    reward_model: LlamaForSequenceClassification | None = None,
    prompts: list[Dialogue] | None = None,
    said: list[str] | None = None,
    scorer: Scorer | None = None,
) -> PPOResult:
    run_dir.mkdir(exist_ok=True)
    return train(
        config,
        run_dir,
        prompts=prompts or PROMPTS,
        scorer=scorer or LengthScorer(),
        reward_model=reward_model,
        hooks=hooks or [],
        tracker=tracker or ListTracker(),
        progress=NoProgress(),
        say=([] if said is None else said).append,
    )


class ValuesByStep(Hook):
    """Gives each checkpoint the downstream average prepared for its step."""

    def __init__(self, **values: float) -> None:
        self.values = {int(step.removeprefix("at_")): value for step, value in values.items()}

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        return {"downstream/average": self.values[event.step]}


class WeightHook(Hook):
    """Measures the policy itself, and dies once at `dies_at`."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        if event.step == self.dies_at:
            raise RuntimeError("the machine went away")
        return {"downstream/average": event.model.get_parameter("lm_head.weight").square().sum().item()}


class DyingTracker(ListTracker):
    """Dies when it is given the training metrics of step `dies_at`."""

    def __init__(self, dies_at: int) -> None:
        super().__init__()
        self.dies_at = dies_at

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        if (axis, step) == ("train/step", self.dies_at):
            raise RuntimeError("the machine went away")
        super().log(metrics, axis=axis, step=step)


def without_seconds(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if "seconds/" not in name}


def test_a_batch_of_prompts_is_a_function_of_seed_and_step() -> None:
    config = config_of(Path("."), batch_size=8)
    assert batch_prompts(PROMPTS, 7, config) == batch_prompts(PROMPTS, 7, config)
    assert batch_prompts(PROMPTS, 7, config) != batch_prompts(PROMPTS, 8, config)
    assert batch_prompts(PROMPTS, 7, config) != batch_prompts(PROMPTS, 7, replace(config, seed=1))


@pytest.mark.parametrize("num_prompts", [3, 8, 10])
def test_every_pass_over_the_prompts_visits_each_of_them_once_and_in_an_order_of_its_own(num_prompts: int) -> None:
    config, prompts = config_of(Path("."), batch_size=8), PROMPTS[:num_prompts]
    # num_prompts batches of 8 hold 8 passes; batches straddle the passes, or hold several of them.
    stream = [prompt for step in range(1, num_prompts + 1) for prompt in batch_prompts(prompts, step, config)]
    passes = [stream[start : start + num_prompts] for start in range(0, len(stream), num_prompts)]
    assert len(passes) == 8
    assert all(set(visited) == set(prompts) for visited in passes)
    assert len(set(map(tuple, passes))) > 1


def test_step_0_measures_the_untrained_policy_on_the_first_batch() -> None:
    config = config_of(Path("."))
    assert batch_prompts(PROMPTS, 0, config) == batch_prompts(PROMPTS, 1, config)


def test_rewards_are_the_shaped_scores_at_the_end_and_the_kl_on_the_way() -> None:
    # Centred on 1 and scaled by 2: (7 - 1) / 2 = 3, (-9 - 1) / 2 = -5 clipped to -4, (3 - 1) / 2 = 1 replaced by -1.5.
    # k1 of a token is 0.3 - 0.1 = 0.2, and the coefficient 0.5 makes it -0.1 a token.
    config = config_of(Path("."), shaping=ShapingConfig(clip=4.0, missing_eos=MissingEOSConfig(how="replace", value=-1.5)))
    moments = Moments(count=4, mean=1.0, squares=16.0)
    episodes = episodes_with([7.0, -9.0, 3.0], [True, True, False], logprob=0.3, reference=0.1)
    scores_B = shaped(episodes, ScoreStatistics(reference=moments, running=moments), config)
    assert scores_B.tolist() == [3.0, -4.0, -1.5]
    rewards_BT = rewards(episodes, scores_B, 0.5, config)
    assert rewards_BT.flatten().tolist() == pytest.approx([-0.1, 2.9, -4.1, 0.0, -0.1, -1.6], abs=1e-6)
    in_loss = replace(config, kl=KLConfig(place="loss", estimator="k2"))
    assert rewards(episodes, scores_B, 0.5, in_loss).flatten().tolist() == [0.0, 3.0, -4.0, 0.0, 0.0, -1.5]


def test_training_for_length_makes_the_answers_longer(policy_folder: Path, tmp_path: Path) -> None:
    tracker = ListTracker()
    optim = OptimConfig(lr=2e-2)
    sizes = {"batch_size": 32, "minibatch_size": 16, "micro_batch_size": 16, "num_batches": 12, "max_new_tokens": 12}
    config = config_of(policy_folder, **sizes, optim=optim, critic="policy", num_checkpoints=1)
    run(config, tmp_path, tracker=tracker)
    logged = tracker.on("train/step")
    assert list(logged) == list(range(1, 13))
    scores = [logged[step]["train/rm_score"] for step in logged]
    spread = logged[1]["train/rm_score_std"]
    assert sum(scores[-3:]) / 3 > scores[0] + spread, scores
    assert tracker.on(AXIS)[12]["kl"] > 0.01
    assert tracker.on(AXIS)[0]["kl"] == 0
    assert all(row["train/first_ratio_error"] < 1e-5 for row in logged.values())
    assert logged[12]["train/lr"] == pytest.approx(0, abs=1e-12)  # a linear decay ends at the last optimiser step


def test_a_run_leaves_loadable_checkpoints_evaluations_and_a_link_to_the_best(
    policy_folder: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    recording, tracker = RecordingHook(), ListTracker()
    hooks: list[Hook] = [recording, ValuesByStep(at_0=0.1, at_1=0.3, at_2=0.5, at_3=0.5, at_4=0.2)]
    outcome = run(config_of(policy_folder), tmp_path, hooks=hooks, tracker=tracker)

    assert outcome == PPOResult(last_step=4, best_step=2, best_value=0.5, num_dropped_prompts=0)  # at a draw the earlier stays
    assert (tmp_path / "best").resolve() == step_folder(tmp_path, 2).resolve()
    assert complete_steps(tmp_path) == [1, 2, 3, 4]
    assert [event.step for event in recording.events] == [0, 1, 2, 3, 4]
    assert [(event.path, event.num_steps) for event in recording.events[::4]] == [(policy_folder, 4), (step_folder(tmp_path, 4), 4)]
    assert [(ended.run_dir, ended.step) for ended in recording.ended] == [(tmp_path, 4)]
    for step, value in enumerate((0.1, 0.3, 0.5, 0.5, 0.2)):
        evaluation = read_evaluation(tmp_path, step)
        assert evaluation["downstream/average"] == value
        assert evaluation == {AXIS: step, **tracker.on(AXIS)[step]}
        assert {"kl", "kl_k3", "rm_score", "length", "eos_rate"} <= set(evaluation)
        # The trainer's own metrics are those of the batch that the step drew.
        assert step == 0 or evaluation["kl"] == tracker.on("train/step")[step]["train/kl"]
    assert read_evaluation(tmp_path, 0)["kl"] == 0

    saved, saved_tokenizer = load_policy(ModelConfig(path=str(step_folder(tmp_path, 4))))
    assert saved_tokenizer.get_vocab() == tokenizer.get_vocab()
    moved = [not torch.equal(a, b) for a, b in zip(saved.parameters(), policy.parameters(), strict=True)]
    assert all(moved)
    # The newest is resumed from, and the one before it where the newest got lost.
    assert resumable_steps(tmp_path) == [3, 4]


def test_where_the_untrained_policy_is_best_there_is_no_link(policy_folder: Path, tmp_path: Path) -> None:
    hooks: list[Hook] = [ValuesByStep(at_0=0.9, at_2=0.3)]
    outcome = run(config_of(policy_folder, num_batches=2, num_checkpoints=1), tmp_path, hooks=hooks)
    assert (outcome.best_step, outcome.best_value) == (0, 0.9)
    assert not (tmp_path / "best").is_symlink()


def test_without_the_metric_that_decides_nothing_is_best(policy_folder: Path, tmp_path: Path) -> None:
    outcome = run(config_of(policy_folder, num_batches=1, num_checkpoints=1), tmp_path)
    assert (outcome.best_step, outcome.best_value) == (0, None)
    assert not (tmp_path / "best").is_symlink()


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

    assert said == ([] if resumed_from is None else [f"resuming torn from step-{resumed_from:06d}"])
    assert resumed == whole
    assert snapshot(tmp_path / "torn") == snapshot(tmp_path / "whole")
    both = dying_tracker.on("train/step") | after.on("train/step")
    assert list(after.on("train/step")) == list(range((resumed_from or 0) + 1, 5))
    assert {step: without_seconds(row) for step, row in both.items()} == {
        step: without_seconds(row) for step, row in uninterrupted.on("train/step").items()
    }


def all_knobs(value_warmup: int, place: str) -> dict[str, Any]:
    """A configuration in which everything that a run remembers changes from batch to batch."""
    return {
        "kl": KLConfig(place=place, estimator="k3", target=0.01, horizon=20, stop=100.0),
        "shaping": ShapingConfig(
            center="running",
            scale="running",
            clip=2.0,
            overlong=OverlongConfig(buffer=3),
            missing_eos=MissingEOSConfig(how="replace", value=-1.0),
        ),
        "importance_cap": 2.0,
        "value_warmup": value_warmup,
        "entropy_coef": 0.01,
        "dual_clip": 2.0,
        "stop_after_falls": 3,
        "optim": OptimConfig(lr=1e-3, warmup_ratio=0.25, weight_decay=0.1),
    }


@pytest.mark.parametrize(("value_warmup", "place"), [(1, "reward"), (1, "loss"), (3, "reward")])
def test_a_run_with_every_knob_on_resumes_bit_for_bit(
    policy_folder: Path, reward_model: LlamaForSequenceClassification, tmp_path: Path, value_warmup: int, place: str
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


def test_everything_that_tells_a_healthy_run_from_a_sick_one_is_logged(policy_folder: Path, tmp_path: Path) -> None:
    tracker = ListTracker()
    run(config_of(policy_folder, num_batches=1, num_checkpoints=1), tmp_path, tracker=tracker)
    names = """kl kl_k3 kl_coef entropy clip_fraction dual_clip_fraction value_clip_fraction explained_variance length eos_rate rm_score
        rm_score_std score score_std advantage advantage_std return loss/policy loss/value loss/kl importance_weight importance_gap
        approx_kl grad_norm first_ratio_error lr critic_lr seconds/generation seconds/scoring seconds/forward seconds/update"""
    assert set(tracker.on("train/step")[1]) == {f"train/{name}" for name in names.split()}


def test_a_run_whose_kl_passes_the_stop_ends_with_its_last_checkpoint_named(policy_folder: Path, tmp_path: Path) -> None:
    tracker = ListTracker()
    config = config_of(policy_folder, optim=OptimConfig(lr=3e-2), kl=KLConfig(stop=0.05))
    with pytest.raises(DivergenceError) as caught:
        run(config, tmp_path, hooks=[WeightHook()], tracker=tracker)
    last = max(tracker.on("train/step"))
    assert f"PPO ended in batch {last + 1}: the KL to the reference is" in str(caught.value)
    assert f"The last complete checkpoint is {step_folder(tmp_path, last)}" in str(caught.value)
    assert complete_steps(tmp_path) == list(range(1, last + 1))


class BrokenScorer(LengthScorer):
    """Gives NaN once it has been asked `good` times."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good = good

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        scores = super().score(prompts, completions)
        return scores if len(self.calls) <= self.good else [[float("nan")] for _ in scores]


def test_a_reward_that_breaks_ends_the_run_before_it_reaches_the_policy(policy_folder: Path, tmp_path: Path) -> None:
    # Asked for step 0 and two batches, then broken: the third batch is not trained on.
    with pytest.raises(DivergenceError, match=r"PPO ended in batch 3: 8 of 8 scores of reward are not finite .*step-000002"):
        run(config_of(policy_folder), tmp_path, scorer=BrokenScorer(3))
    assert complete_steps(tmp_path) == [1, 2]


class RisingScorer(LengthScorer):
    """Gives higher scores at each call."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[len(self.calls) + score for score in row] for row in ([0.0] * len(r) for r in super().score(prompts, completions))]


def test_a_run_that_falls_downstream_while_its_reward_rises_ends_as_finished_and_says_why(policy_folder: Path, tmp_path: Path) -> None:
    config, said, recording = config_of(policy_folder, stop_after_falls=2), list[str](), RecordingHook()
    hooks: list[Hook] = [ValuesByStep(at_0=0.3, at_1=0.5, at_2=0.4, at_3=0.2), recording]
    outcome = run(config, tmp_path, hooks=hooks, scorer=RisingScorer(), said=said)
    reason = "downstream/average fell at 2 checkpoints in a row, from 0.5 to 0.2, while rm_score rose from 2 to 4 (stop_after_falls=2)"
    assert outcome == PPOResult(last_step=3, best_step=1, best_value=0.5, num_dropped_prompts=0, stopped_because=reason)
    assert said == [f"stopped after batch 3 of 4: {reason}"]
    assert complete_steps(tmp_path) == [1, 2, 3]
    assert [ended.step for ended in recording.ended] == [3]
    # Started again, it is still over.
    assert run(config, tmp_path, hooks=hooks, scorer=RisingScorer()) == outcome
    assert complete_steps(tmp_path) == [1, 2, 3]


def test_the_engine_in_this_process_draws_with_the_trainers_log_probabilities(policy_folder: Path, tmp_path: Path) -> None:
    tracker = ListTracker()
    run(config_of(policy_folder, importance_cap=2.0), tmp_path, tracker=tracker)
    rows = tracker.on("train/step").values()
    assert all(row["train/importance_gap"] < 1e-5 for row in rows)
    assert [row["train/importance_weight"] for row in rows] == pytest.approx([1.0] * len(rows), abs=1e-5)


def test_a_finished_run_that_is_started_again_trains_no_further(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, num_batches=2, num_checkpoints=1)
    first = run(config, tmp_path, hooks=[WeightHook()])
    tracker = ListTracker()
    assert run(config, tmp_path, hooks=[WeightHook()], tracker=tracker) == first
    assert tracker.rows == []


def test_a_run_killed_between_an_evaluation_and_its_link_makes_the_link_on_resuming(policy_folder: Path, tmp_path: Path) -> None:
    config, hooks = config_of(policy_folder, num_batches=2, num_checkpoints=2), [ValuesByStep(at_0=0.1, at_1=0.2, at_2=0.3)]
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
    config = config_of(folder, num_batches=2, num_checkpoints=2, critic="policy")
    run(config, tmp_path / "whole", hooks=[WeightHook()])
    with pytest.raises(RuntimeError, match="the machine went away"):
        run(config, tmp_path / "torn", hooks=[WeightHook(dies_at=1)])
    run(config, tmp_path / "torn", hooks=[WeightHook()])
    whole, torn = (load_file(step_folder(tmp_path / name, 2) / "model.safetensors") for name in ("whole", "torn"))
    assert "lm_head.weight" not in whole
    assert {name: tensor.tolist() for name, tensor in whole.items()} == {name: tensor.tolist() for name, tensor in torn.items()}


def test_prompts_beyond_the_limit_are_dropped_counted_and_told(policy_folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    prompts = [*PROMPTS, user("fruit " * 100)]
    outcome = run(config_of(policy_folder, num_batches=1, max_prompt_length=60), tmp_path, prompts=prompts, said=said)
    assert outcome.num_dropped_prompts == 1
    assert said == ["dropped 1 prompts longer than max_prompt_length=60 tokens"]
    with pytest.raises(ValueError, match="No prompt fits into max_prompt_length=2 tokens"):
        run(config_of(policy_folder, num_batches=1, max_prompt_length=2), tmp_path / "other")
