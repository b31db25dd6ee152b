"""RLOO and GRPO by TRL on a tiny policy: our scores reach the updates, and runs keep what PPO's promise."""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.config import EngineConfig, EngineKind, LoraConfig, ModelConfig, OptimConfig, RolloutConfig, RolloutKind
from core.hooks.hook import Hook, read_evaluation
from core.models.load import load_policy
from core.process.signals import Preempted
from core.progress import NoProgress
from core.records import AXIS, CheckpointSaved, Dialogue, Scorer, Tracker, user
from core.runs.checkpoints import complete_steps, step_folder
from ppo.config import Algo, KLConfig, MissingEOSConfig, PPOConfig, ShapingConfig
from ppo.critic_free.arguments import NO_CRITIC, ignored_line, require_supported, trl_arguments, updates
from ppo.critic_free.train import train_grouped
from ppo.critic_free.trainer import group_prompts, open_trainer
from ppo.guards import DivergenceError
from ppo.prompts import batch_prompts
from ppo.state import PROGRESS
from ppo.train import PPOResult
from tests.fakes import LengthScorer, ListTracker, RecordingHook, only_id, tiny_llama

PROMPTS = [user(f"Name {number} fruits.") for number in range(10)]
AS_SCORED = ShapingConfig(center="none", scale="fixed", std=1.0, clip=None)
BOTH = pytest.mark.parametrize("algo", [Algo.rloo, Algo.grpo])


def config_of(folder: Path, algo: Algo, **options: Any) -> PPOConfig:
    """Four batches of two groups of four, each a checkpoint; a batch is four updates."""
    config = PPOConfig(
        model=ModelConfig(path=str(folder)),
        algo=algo,
        group_size=4,
        prompts=["."],
        optim=OptimConfig(lr=1e-3, warmup_ratio=0.25),
        num_batches=4,
        num_checkpoints=4,
        batch_size=8,
        minibatch_size=4,
        micro_batch_size=2,
        max_new_tokens=6,
    )
    return replace(config, **options)


def run(
    config: PPOConfig,
    run_dir: Path,
    *,
    hooks: Sequence[Hook] = (),
    tracker: Tracker | None = None,
    scorer: Scorer | None = None,
    prompts: Sequence[Dialogue] = PROMPTS,
    said: list[str] | None = None,
) -> PPOResult:
    run_dir.mkdir(exist_ok=True)
    return train_grouped(
        config,
        run_dir,
        prompts=prompts,
        scorer=scorer or LengthScorer(),
        hooks=hooks,
        tracker=tracker or ListTracker(),
        progress=NoProgress(),
        say=([] if said is None else said).append,
    )


class WeightHook(Hook):
    """Measures the policy itself, and dies or is told to stop once at a step."""

    def __init__(self, *, dies_at: int | None = None, stops_at: int | None = None) -> None:
        self.dies_at, self.stops_at = dies_at, stops_at

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        if event.step == self.dies_at:
            raise RuntimeError("the machine went away")
        if event.step == self.stops_at:
            os.kill(os.getpid(), signal.SIGTERM)
        weights = (parameter.double().square().sum().item() for parameter in event.model.parameters())
        return {"downstream/average": sum(weights)}


class ValuesByStep(Hook):
    """Gives each checkpoint the downstream average prepared for its step."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        return {"downstream/average": self.values[event.step]}


class DyingTracker(ListTracker):
    """Dies, or sends a signal, when it is given the training metrics of a step."""

    def __init__(self, step: int, *, by_signal: bool = False) -> None:
        super().__init__()
        self.step, self.by_signal = step, by_signal

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        super().log(metrics, axis=axis, step=step)
        if (axis, step) == ("train/step", self.step):
            if not self.by_signal:
                raise RuntimeError("the machine went away")
            os.kill(os.getpid(), signal.SIGTERM)


def without_seconds(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "train/trl/step_time"}


# What reaches the updates


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # TRL's use of an old name
@BOTH
def test_the_advantages_are_those_of_the_papers_by_hand(
    policy_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, algo: Algo
) -> None:
    config = config_of(policy_folder, algo, whiten_advantages=False, kl=KLConfig(beta=0.0), epochs=1)
    given = [1.0, 2.0, 3.0, 6.0, -1.0, 0.0, 0.0, 5.0]
    model, _ = load_policy(config.model)
    trainer = open_trainer(config, model, tokenizer, PROMPTS, reward=lambda **_: given, scratch=tmp_path)
    assert trainer.model is not None
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"prompt": [{"role": "user", "content": "Name 1 fruits."}]}] * 8)
    if algo == Algo.rloo:
        # The score less the mean of the other three: 1 - (2 + 3 + 6) / 3 = -8/3, and so on.
        expected = [-8 / 3, -4 / 3, 0.0, 4.0, -8 / 3, -4 / 3, -4 / 3, 16 / 3]
    else:
        # The score less the group's mean, 3 and 1.
        expected = [-2.0, -1.0, 0.0, 3.0, -2.0, -1.0, -1.0, 4.0]
    assert batch["advantages"].tolist() == pytest.approx(expected, abs=1e-5)


@BOTH
def test_the_scorer_sees_groups_of_completions_and_its_scores_reach_the_trainer_unchanged(
    policy_folder: Path, tmp_path: Path, algo: Algo
) -> None:
    scorer, tracker = LengthScorer(), ListTracker()
    config = config_of(policy_folder, algo, num_batches=2, num_checkpoints=1, shaping=AS_SCORED)
    run(config, tmp_path, scorer=scorer, tracker=tracker)
    # Step 0 asks for the prompts of the first batch, as PPO does.
    assert [list(prompts) for prompts, _ in scorer.calls] == [group_prompts(PROMPTS, step, config) for step in (0, 1, 2)]
    for step in (1, 2):
        _, groups = scorer.calls[step]
        assert [len(group) for group in groups] == [4, 4]
        lengths = [float(len(text)) for group in groups for text in group]
        row = tracker.on("train/step")[step]
        assert row["train/rm_score"] == row["train/score"] == pytest.approx(sum(lengths) / 8)


def test_the_prompts_of_a_batch_are_ppos_for_as_many_episodes_as_there_are_groups() -> None:
    config = config_of(Path("."), Algo.grpo)
    as_ppo = replace(config, batch_size=2, minibatch_size=2, micro_batch_size=1)
    assert [group_prompts(PROMPTS, step, config) for step in range(7)] == [batch_prompts(PROMPTS, step, as_ppo) for step in range(7)]


def test_scores_are_shaped_before_they_reach_the_trainer(policy_folder: Path, tmp_path: Path) -> None:
    tracker = ListTracker()
    shaping = replace(AS_SCORED, missing_eos=MissingEOSConfig(how="replace", value=-3.0))
    config = config_of(policy_folder, Algo.rloo, num_batches=1, num_checkpoints=1, max_new_tokens=1, shaping=shaping)
    scorer = LengthScorer()
    run(config, tmp_path, scorer=scorer, tracker=tracker)
    row = tracker.on("train/step")[1]
    # With one token a completion is either EOS, which is no text and scores 0, or cut.
    assert row["train/length"] == 1
    assert row["train/score"] == pytest.approx(-3 * (1 - row["train/eos_rate"]))


@BOTH
def test_the_reward_rises(policy_folder: Path, tmp_path: Path, algo: Algo) -> None:
    tracker = ListTracker()
    config = config_of(
        policy_folder, algo, num_batches=12, num_checkpoints=1, batch_size=64, minibatch_size=32, micro_batch_size=32, max_new_tokens=12
    )
    run(replace(config, optim=OptimConfig(lr=3e-3)), tmp_path, tracker=tracker)
    scores = [row["train/rm_score"] for row in tracker.on("train/step").values()]
    assert len(scores) == 12
    assert sum(scores[-3:]) > sum(scores[:3]) + 3, scores


# What is logged


@BOTH
def test_the_metrics_have_ppos_names_and_the_kl_is_that_of_the_policy_that_drew(policy_folder: Path, tmp_path: Path, algo: Algo) -> None:
    tracker = ListTracker()
    run(config_of(policy_folder, algo), tmp_path, tracker=tracker)
    rows = tracker.on("train/step")
    names = "kl kl_coef rm_score rm_score_std score score_std length eos_rate entropy clip_fraction grad_norm lr"
    assert all({f"train/{name}" for name in names.split()} <= set(row) for row in rows.values())
    assert all(name.startswith("train/trl/") for name in set(rows[1]) - {f"train/{name}" for name in names.split()})
    # In the first batch the policy that draws is the reference, whatever its updates do.
    assert rows[1]["train/kl"] == pytest.approx(0, abs=1e-5)
    assert abs(rows[4]["train/kl"]) > 1e-4
    assert {"kl", "rm_score", "rm_score_std", "length", "eos_rate"} == set(tracker.on(AXIS)[2])
    assert tracker.on(AXIS)[2]["kl"] == rows[2]["train/kl"]
    assert tracker.on(AXIS)[0]["kl"] == 0


@BOTH
def test_without_a_penalty_the_kl_is_still_measured(policy_folder: Path, tmp_path: Path, algo: Algo) -> None:
    tracker = ListTracker()
    run(config_of(policy_folder, algo, kl=KLConfig(beta=0.0), num_batches=2, num_checkpoints=1), tmp_path, tracker=tracker)
    assert abs(tracker.on("train/step")[2]["train/kl"]) > 1e-6


# What is on disk


@BOTH
def test_a_run_leaves_loadable_checkpoints_evaluations_and_a_link_to_the_best(
    policy_folder: Path, policy: LlamaForCausalLM, tmp_path: Path, algo: Algo
) -> None:
    recording, tracker = RecordingHook(**{"downstream/average": 1.0}), ListTracker()
    outcome = run(config_of(policy_folder, algo), tmp_path, hooks=[recording, ValuesByStep(0.1, 0.3, 0.5, 0.5, 0.2)], tracker=tracker)
    assert outcome == PPOResult(last_step=4, best_step=2, best_value=0.5, num_dropped_prompts=0)
    assert (tmp_path / "best").resolve() == step_folder(tmp_path, 2).resolve()
    assert complete_steps(tmp_path) == [1, 2, 3, 4]
    assert [(event.step, event.num_steps, event.run_dir) for event in recording.events] == [(step, 4, tmp_path) for step in range(5)]
    assert [event.path for event in recording.events] == [policy_folder, *(step_folder(tmp_path, step) for step in (1, 2, 3, 4))]
    assert [(ended.run_dir, ended.step) for ended in recording.ended] == [(tmp_path, 4)]
    assert all(read_evaluation(tmp_path, step) == {AXIS: step, **tracker.on(AXIS)[step]} for step in range(5))
    assert sorted(tracker.on("train/step")) == [1, 2, 3, 4]
    saved, _ = load_policy(ModelConfig(path=str(step_folder(tmp_path, 4))))
    assert all(not torch.equal(a, b) for a, b in zip(saved.parameters(), policy.parameters(), strict=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "checkpoints", "evals"]
    assert [(step_folder(tmp_path, step) / "trainer" / "optimizer.pt").exists() for step in (1, 2, 3, 4)] == [False, False, False, True]


def test_checkpoints_are_spread_evenly_over_the_batches(policy_folder: Path, tmp_path: Path) -> None:
    recording = RecordingHook(**{"downstream/average": 1.0})
    run(config_of(policy_folder, Algo.grpo, num_batches=5, num_checkpoints=2), tmp_path, hooks=[recording])
    assert [event.step for event in recording.events] == [0, 2, 5]  # 5 / 2 rounds to the even 2


def snapshot(run_dir: Path) -> dict[str, Any]:
    """All that a run leaves behind but its clock."""
    last = step_folder(run_dir, 4)
    stored = torch.load(last / "trainer" / "optimizer.pt", weights_only=True)
    moments = {f"{i}/{name}": value for i, state in stored["state"].items() for name, value in state.items()}
    return {
        "tensors": {name: tensor.tolist() for name, tensor in {**load_file(last / "model.safetensors"), **moments}.items()},
        "scheduler": torch.load(last / "trainer" / "scheduler.pt", weights_only=True)["last_epoch"],
        "state": json.loads((last / PROGRESS).read_text()),
        "evaluations": {step: read_evaluation(run_dir, step) for step in (0, 2, 4)},
        "steps": complete_steps(run_dir),
        "best": (run_dir / "best").resolve().name,
    }


RUNNING = ShapingConfig(center="running", scale="running")


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


def test_the_reference_is_the_policy_as_it_was_loaded_pad_token_and_all(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    torch.manual_seed(2)
    folder = tmp_path / "policy"
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<|bos|>", eos_token="<|eos|>")
    bare.chat_template, bare.pad_token = tokenizer.chat_template, bare.eos_token
    LlamaForCausalLM(tiny_llama(bare)).save_pretrained(folder)
    bare.save_pretrained(folder)
    config = config_of(folder, Algo.rloo)
    model, own = load_policy(config.model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = open_trainer(config, model, own, PROMPTS, reward=lambda **_: [], scratch=tmp_path / "trl")
    reference: Any = trainer.ref_model
    assert {n: w.tolist() for n, w in reference.state_dict().items()} == {n: w.tolist() for n, w in before.items()}
    assert len(reference.get_input_embeddings().weight) == len(own) > len(bare) - 1
    assert only_id(own.pad_token_id) != only_id(own.eos_token_id)


# What ends a run


def test_a_run_whose_kl_passes_the_stop_ends_with_its_last_checkpoint_named(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, Algo.grpo, optim=OptimConfig(lr=3e-2), kl=KLConfig(stop=0.05))
    with pytest.raises(DivergenceError, match=r"in batch 2: the KL to the reference is .*The last complete checkpoint is .*step-000001"):
        run(config, tmp_path)
    assert complete_steps(tmp_path) == [1]


class BrokenScorer(LengthScorer):
    """Gives `what` once it has been asked `good` times."""

    def __init__(self, good: int, what: float) -> None:
        super().__init__()
        self.good, self.what = good, what

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        scores = super().score(prompts, completions)
        return scores if len(self.calls) <= self.good else [[self.what for _ in row] for row in scores]


def test_a_reward_that_breaks_ends_the_run_before_it_reaches_the_policy(policy_folder: Path, tmp_path: Path) -> None:
    # Asked for step 0 and two batches, then broken: the third batch is not trained on.
    with pytest.raises(DivergenceError, match=r"in batch 3: 8 of 8 scores of reward are not finite .*step-000002"):
        run(config_of(policy_folder, Algo.rloo), tmp_path, scorer=BrokenScorer(3, float("nan")))
    assert complete_steps(tmp_path) == [1, 2]


class UnevenScorer(LengthScorer):
    """Gives every second completion a score that overflows once it is squared."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[3e38 * (place % 2) for place, _ in enumerate(row)] for row in super().score(prompts, completions)]


def test_a_gradient_that_is_not_finite_ends_the_run_before_the_step(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, Algo.rloo, shaping=AS_SCORED, whiten_advantages=False)
    with pytest.raises(DivergenceError, match="in batch 1: a gradient is not finite"):
        run(config, tmp_path, scorer=UnevenScorer())


class RisingScorer(LengthScorer):
    """Gives higher scores at each call."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[float(len(self.calls))] * len(row) for row in super().score(prompts, completions)]


def test_a_run_that_falls_downstream_while_its_reward_rises_ends_as_finished_and_says_why(policy_folder: Path, tmp_path: Path) -> None:
    config, said, recording = config_of(policy_folder, Algo.rloo, stop_after_falls=2), list[str](), RecordingHook()
    hooks: list[Hook] = [ValuesByStep(0.3, 0.5, 0.4, 0.2), recording]
    outcome = run(config, tmp_path, hooks=hooks, scorer=RisingScorer(), said=said)
    reason = "downstream/average fell at 2 checkpoints in a row, from 0.5 to 0.2, while rm_score rose from 2 to 4 (stop_after_falls=2)"
    assert outcome == PPOResult(last_step=3, best_step=1, best_value=0.5, num_dropped_prompts=0, stopped_because=reason)
    assert said == [f"stopped after batch 3 of 4: {reason}"]
    assert [ended.step for ended in recording.ended] == [3]
    assert run(config, tmp_path, hooks=hooks, scorer=RisingScorer()) == outcome  # started again, it is still over


def test_prompts_beyond_the_limit_are_dropped_counted_and_told(policy_folder: Path, tmp_path: Path) -> None:
    said, prompts = list[str](), [*PROMPTS, user("fruit " * 100)]
    config = config_of(policy_folder, Algo.grpo, num_batches=1, num_checkpoints=1, max_prompt_length=60)
    assert run(config, tmp_path, prompts=prompts, said=said).num_dropped_prompts == 1
    assert said == ["dropped 1 prompts longer than max_prompt_length=60 tokens"]


# What a configuration means


@BOTH
def test_a_configuration_reaches_trl_key_by_key(algo: Algo) -> None:
    config = config_of(Path("."), algo, temperature=0.7, clip=0.3, seed=5, epochs=3, optim=OptimConfig(lr=2e-4, warmup_ratio=0.5))
    args = trl_arguments(config, Path("scratch"), on_cpu=True)
    assert updates(config) == 6  # three passes over two minibatches
    assert (args.max_steps, args.warmup_steps, args.learning_rate) == (24, 12, 2e-4)
    assert (args.generation_batch_size, args.num_generations, args.num_iterations) == (8, 4, 3)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.steps_per_generation) == (2, 2, 4)
    assert (args.temperature, args.top_p, args.top_k, args.max_completion_length) == (0.7, 1.0, 0, 6)
    assert (args.beta, args.epsilon, args.seed, args.bf16) == (0.05, 0.3, 5, False)
    assert (args.adam_epsilon, args.max_grad_norm, args.weight_decay, args.lr_scheduler_type) == (1e-5, 1.0, 0.0, "linear")


def test_what_the_algorithms_have_of_their_own_is_carried_over() -> None:
    grpo: Any = trl_arguments(config_of(Path("."), Algo.grpo, dual_clip=3.0, entropy_coef=0.01), Path("s"), on_cpu=True)
    assert (grpo.loss_type, grpo.scale_rewards, grpo.delta, grpo.entropy_coef) == ("dapo", "group", 3.0, 0.01)
    plain: Any = trl_arguments(config_of(Path("."), Algo.grpo, whiten_advantages=False), Path("s"), on_cpu=True)
    assert plain.scale_rewards == "none"
    rloo: Any = [trl_arguments(config_of(Path("."), Algo.rloo, whiten_advantages=w), Path("s"), on_cpu=True) for w in (True, False)]
    assert [args.normalize_advantages for args in rloo] == [True, False]


@pytest.mark.parametrize(
    ("algo", "options", "message"),
    [
        (Algo.grpo, {"group_size": 3}, "batch_size=8 is no multiple of group_size=3; set group_size to a divisor"),
        (Algo.rloo, {"group_size": 1}, "group_size=1 leaves a completion nothing to be compared with; choose 2"),
        (Algo.grpo, {"gamma": 0.9}, "gamma=0.9 discounts .* leave it at 1"),
        (Algo.grpo, {"value_warmup": 1}, "value_warmup=1 trains a critic.* set it to 0"),
        (Algo.grpo, {"importance_cap": 2.0}, "importance_cap=2.0 corrects .* leave it out"),
        (Algo.grpo, {"kl": KLConfig(target=1.0)}, "kl.target=1.0 adapts .* leave it out"),
        (Algo.grpo, {"kl": KLConfig(place="loss", estimator="k2")}, "not kl.place=loss kl.estimator=k2; set kl.place=loss kl.estimator=k3"),
        (Algo.rloo, {"kl": KLConfig(place="loss", estimator="k3")}, "leave out kl.place=loss kl.estimator=k3"),
        (Algo.rloo, {"kl": KLConfig(estimator="k3")}, "leave out kl.place=reward kl.estimator=k3"),
        (Algo.rloo, {"dual_clip": 3.0}, "dual_clip=3.0 has no counterpart.* algo=grpo"),
        (Algo.grpo, {"dual_clip": 1.1}, "dual_clip=1.1 is not above 1 \\+ clip = 1.2; raise it"),
        (Algo.rloo, {"entropy_coef": 0.1}, "entropy_coef=0.1 has no counterpart.* algo=grpo"),
        (Algo.grpo, {"rollout": RolloutConfig(kind=RolloutKind.continuous)}, "rollout=continuous is for algo=ppo"),
        (Algo.grpo, {"rollout": RolloutConfig(batch_size=4)}, "rollout.batch_size=4 is below batch_size=8"),
        (Algo.grpo, {"engine": EngineConfig(kind=EngineKind.fsdp2)}, "engine=fsdp2 is for algo=ppo"),
    ],
)
def test_what_trl_cannot_do_is_refused_with_key_and_remedy_before_any_work(
    tmp_path: Path, algo: Algo, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"algo={algo}: .*{message}"):
        run(config_of(Path("no-such-policy"), algo, **options), tmp_path)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process, and this is one of 2; start it without torchrun"):
        require_supported(config_of(Path("."), Algo.grpo))


@BOTH
def test_a_configuration_of_ppo_is_taken_as_it_is_but_for_the_algorithm(algo: Algo) -> None:
    shaping = ShapingConfig(missing_eos=MissingEOSConfig(how="replace", value=-3.0))
    config = config_of(Path("."), algo, critic_lr=1e-3, lam=0.9, shaping=shaping, kl=KLConfig(stop=10.0))
    require_supported(config)
    assert ignored_line(config) == f"algo={algo} has no critic; without effect: critic_lr=0.001, lam=0.9"


def test_keys_of_a_critic_are_told_to_be_without_effect() -> None:
    config = config_of(Path("."), Algo.grpo)
    assert ignored_line(config) == ""
    assert ignored_line(replace(config, critic_lr=1e-3, lam=1.0)) == "algo=grpo has no critic; without effect: critic_lr=0.001, lam=1.0"


def test_every_key_of_the_configuration_has_been_thought_of() -> None:
    # A new key must be carried over, refused or told to be without effect (ppo.critic_free.arguments), and then named here.
    carried = """model algo group_size lora prompts optim kl num_batches batch_size minibatch_size micro_batch_size epochs max_new_tokens
        max_prompt_length temperature clip dual_clip entropy_coef whiten_advantages shaping best_metric stop_after_falls num_checkpoints
        seed save_minutes gradient_checkpointing"""
    refused = "engine rollout gamma value_warmup importance_cap"
    assert {key.name for key in fields(PPOConfig)} == {*carried.split(), *refused.split(), *NO_CRITIC}
