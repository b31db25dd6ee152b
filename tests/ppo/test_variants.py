"""PPO with several rewards, an adapter, other engines that draw, and less memory: the same algorithm throughout."""

import copy
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from core.config import Dtype, LoraConfig, ModelConfig, Quantize, RolloutConfig, RolloutKind
from core.generators.local import TransformersGenerator
from core.models.load import load_policy
from core.process.signals import Preempted
from core.records import Dialogue, Sampling, Scorer
from core.runs.checkpoints import complete_steps, step_folder
from core.scorers.reward_model import RewardModelScorer
from core.scorers.verifier import VerifierScorer
from core.scorers.weighted import Term, WeightedScorer
from ppo.config import PPOConfig
from ppo.model import actor_critic, frozen_copy
from ppo.rollout import rollout
from ppo.state import read_state
from ppo.update import ROUNDING
from tests.core.vllm.fake_server import Standin, serving
from tests.fakes import LengthScorer, ListTracker
from tests.ppo.engines import ALONE
from tests.ppo.fakes import DyingTracker, WeightHook, without_seconds
from tests.ppo.runs import PROMPTS, config_of, run

LORA = LoraConfig(rank=4)


def logged(tracker: ListTracker) -> dict[int, dict[str, float]]:
    return {step: without_seconds(row) for step, row in tracker.on("train/step").items()}


def policies(run_dir: Path) -> list[torch.Tensor]:
    """The weights of the last policy of a run."""
    return list(load_policy(ModelConfig(path=str(step_folder(run_dir, 4))))[0].parameters())


# --- several rewards ------------------------------------------------------------------------------------------------------


def two_rewards(reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast) -> WeightedScorer:
    """A standardised reward model, and a verifier that likes short answers to prompts of an even number."""
    references = {prompt: {"even": number % 2 == 0} for number, prompt in enumerate(PROMPTS)}
    verifier = VerifierScorer(lambda text, reference: float(reference["even"] and len(text) < 8), references)
    model = RewardModelScorer(reward_model, tokenizer, say=lambda _: None)
    return WeightedScorer([Term(name="rm", scorer=model, coefficient=0.5, standardize=True), Term(name="short", scorer=verifier)])


def test_several_rewards_are_logged_one_by_one_and_resume_with_the_scales_they_began_with(
    policy_folder: Path, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config, whole, dying, after = config_of(policy_folder), ListTracker(), DyingTracker(3), ListTracker()
    first = two_rewards(reward_model, tokenizer)
    run(config, tmp_path / "whole", hooks=[WeightHook()], tracker=whole, scorer=first, reward_model=reward_model)
    again = {"hooks": [WeightHook()], "reward_model": reward_model}
    with pytest.raises(RuntimeError, match="the machine went away"):
        run(config, tmp_path / "torn", tracker=dying, scorer=two_rewards(reward_model, tokenizer), **again)
    second = two_rewards(reward_model, tokenizer)
    run(config, tmp_path / "torn", tracker=after, scorer=second, **again)
    assert logged(dying) | logged(after) == logged(whole)
    assert second.moments == first.moments == read_state(step_folder(tmp_path / "whole", 4)).moments
    mean, std = first.moments["rm"]
    for row in whole.on("train/step").values():
        total = 0.5 * (row["train/reward/rm"] - mean) / std + row["train/reward/short"]
        assert row["train/rm_score"] == pytest.approx(total, abs=1e-5)


def test_a_critic_from_the_reward_model_begins_at_the_shaped_score_of_what_it_reads(
    policy_folder: Path, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    scorer = WeightedScorer([Term(name="rm", scorer=RewardModelScorer(reward_model, tokenizer, say=lambda _: None), coefficient=-3.0)])
    run(config_of(policy_folder), tmp_path, scorer=scorer, reward_model=reward_model)
    progress = read_state(step_folder(tmp_path, 4))
    reference = progress.statistics.reference
    # The raw score is -3 times the reward: shaped it is (-3 r - mean) / std.
    assert progress.value_scale == pytest.approx((-3.0 / reference.std, -reference.mean / reference.std + 0.0), abs=1e-5)


# --- adapters -------------------------------------------------------------------------------------------------------------


def test_the_reference_of_an_adapter_is_its_base_without_a_second_copy(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    base = frozen_copy(policy)
    model = actor_critic(copy.deepcopy(policy), None, temperature=1.0, lora=LORA)
    assert model.reference is None
    with torch.no_grad():
        for name, weight in model.actor.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    drawn: dict[str, Any] = {
        "world": ALONE,
        "generator": TransformersGenerator(base, tokenizer),
        "scorer": WeightedScorer.of(LengthScorer()),
        "tokenizer": tokenizer,
        "sampling": Sampling(max_new_tokens=6),
        "micro_batch_size": 5,
    }
    adapted = rollout(PROMPTS, networks=model, **drawn)
    plain = rollout(PROMPTS, networks=actor_critic(copy.deepcopy(policy), None, temperature=1.0), **drawn)
    assert torch.equal(adapted.reference_BT, plain.logprobs_BT)
    assert (adapted.logprobs_BT - adapted.reference_BT).abs().max() > 0.1  # afterwards the adapter is on again
    assert all("lora_" in name or name.startswith("critic_head") for name, weight in model.named_parameters() if weight.requires_grad)
    actor = {id(weight) for weight in model.actor.parameters()}
    assert not [name for name, weight in model.named_parameters() if id(weight) not in actor and not name.startswith("critic_")]


def test_an_adapter_learns_resumes_and_is_saved_as_one(policy_folder: Path, tmp_path: Path) -> None:
    config, whole, dying, after = config_of(policy_folder, lora=LORA), ListTracker(), DyingTracker(3), ListTracker()
    run(config, tmp_path / "whole", tracker=whole)
    with pytest.raises(RuntimeError, match="the machine went away"):
        run(config, tmp_path / "torn", tracker=dying)
    run(config, tmp_path / "torn", tracker=after)
    assert logged(dying) | logged(after) == logged(whole)
    assert logged(whole)[1]["train/kl"] == pytest.approx(0, abs=1e-6)
    assert logged(whole)[1]["train/first_ratio_error"] < 1e-6
    folder = step_folder(tmp_path / "whole", 4)
    assert (folder / "adapter_model.safetensors").is_file()
    assert not (folder / "model.safetensors").exists()
    assert all(torch.equal(a, b) for a, b in zip(policies(tmp_path / "whole"), policies(tmp_path / "torn"), strict=True))
    before, _ = load_policy(ModelConfig(path=str(policy_folder)))
    assert any(not torch.equal(a, b) for a, b in zip(policies(tmp_path / "whole"), before.parameters(), strict=True))


def test_an_adapter_on_an_adapter_is_refused_before_it_is_trained(policy_folder: Path, tmp_path: Path) -> None:
    run(config_of(policy_folder, lora=LORA), tmp_path / "first")
    adapter = step_folder(tmp_path / "first", 4)
    with pytest.raises(ValueError, match="an adapter itself; save the merged model"):
        run(config_of(adapter, lora=LORA), tmp_path / "second")
    run(config_of(adapter), tmp_path / "merged")  # trained as a whole it may be


# --- what draws -----------------------------------------------------------------------------------------------------------


def served(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Standin:
    """A vLLM server with other weights than the policy's, as it was started with."""
    stale = copy.deepcopy(policy)
    with torch.no_grad():
        stale.lm_head.weight.mul_(-1)
    return Standin(stale, tokenizer)


def test_a_vllm_server_draws_with_the_weights_in_training_before_every_batch(
    policy_folder: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tracker, dying, after = ListTracker(), DyingTracker(3), ListTracker()
    with serving(served(policy, tokenizer)) as server:
        rollouts = RolloutConfig(kind=RolloutKind.vllm, url=server.url, folder=str(tmp_path / "weights"))
        config = config_of(policy_folder, rollout=replace(rollouts, dtype=Dtype.fp32), importance_cap=2.0)
        run(config, tmp_path / "whole", tracker=tracker)
        assert server.paths().count("/collective_rpc") == 5  # step 0 and four batches
        # What drew is what is trained: with the weights of the batch before, the gap would be a thousand times as large.
        assert max(row["train/importance_gap"] for row in tracker.on("train/step").values()) < 1e-4
    with serving(served(policy, tokenizer)) as server:
        config = replace(config, rollout=replace(config.rollout, url=server.url))
        with pytest.raises(RuntimeError, match="the machine went away"):
            run(config, tmp_path / "torn", tracker=dying)
    with serving(served(policy, tokenizer)) as server:  # started anew, with its first weights
        run(replace(config, rollout=replace(config.rollout, url=server.url)), tmp_path / "torn", tracker=after)
        assert max(row["train/importance_gap"] for row in after.on("train/step").values()) < 1e-4
    assert complete_steps(tmp_path / "torn") == [1, 2, 3, 4]


def test_a_vllm_server_draws_with_an_adapter_in_training(
    policy_folder: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tracker = ListTracker()
    with serving(served(policy, tokenizer)) as server:
        rollouts = RolloutConfig(kind=RolloutKind.vllm, url=server.url, folder=str(tmp_path / "weights"), dtype=Dtype.fp32)
        run(config_of(policy_folder, lora=LORA, rollout=rollouts), tmp_path / "run", tracker=tracker)
        # The server holds the base with the adapter's update in it: what drew is what is trained.
        rows = tracker.on("train/step").values()
        assert max(row["train/importance_gap"] for row in rows) < 1e-4
        assert max(row["train/kl"] for row in rows) > 1e-3  # and the adapter has moved
        name = "model.layers.0.self_attn.q_proj.weight"
        assert not torch.equal(server.model.get_parameter(name), policy.get_parameter(name))


def test_continuous_batching_draws_for_ppo(policy_folder: Path, tmp_path: Path) -> None:
    tracker = ListTracker()
    config = config_of(policy_folder, rollout=RolloutConfig(kind=RolloutKind.continuous, memory=0.01))
    run(config, tmp_path, tracker=tracker)
    assert len(tracker.on("train/step")) == 4
    assert max(row["train/importance_gap"] for row in tracker.on("train/step").values()) < 1e-4


@pytest.mark.parametrize("lora", [LoraConfig(), LORA])
def test_in_bf16_the_first_ratios_are_one_too(policy_folder: Path, tmp_path: Path, lora: LoraConfig) -> None:
    tracker = ListTracker()
    config = config_of(policy_folder, lora=lora, model=ModelConfig(path=str(policy_folder), dtype=Dtype.bf16))
    run(config, tmp_path, tracker=tracker)
    rows = tracker.on("train/step").values()
    assert max(row["train/first_ratio_error"] for row in rows) < 1e-6
    # The generator's own passes, one token wide, round otherwise: bf16 it was. More than that is corrected, unless asked not to.
    assert max(row["train/importance_gap"] for row in rows) > 1e-3
    assert all((row["train/importance_weight"] != 1) == (row["train/importance_gap"] > ROUNDING) for row in rows)


def test_without_a_cap_nothing_is_corrected(policy_folder: Path, tmp_path: Path) -> None:
    tracker = ListTracker()
    model = ModelConfig(path=str(policy_folder), dtype=Dtype.bf16)
    run(config_of(policy_folder, model=model, importance_cap=None, num_batches=1, num_checkpoints=1), tmp_path, tracker=tracker)
    assert tracker.on("train/step")[1]["train/importance_weight"] == 1


class FormatScorer(LengthScorer):
    """Remembers in which formats it was asked to compute."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        self.halved = torch.is_autocast_enabled("cpu")
        return super().score(prompts, completions)


def test_rewards_are_computed_in_their_own_format_and_not_in_the_policys(policy_folder: Path, tmp_path: Path) -> None:
    scorer = FormatScorer()
    run(config_of(policy_folder, model=ModelConfig(path=str(policy_folder), dtype=Dtype.bf16)), tmp_path, scorer=scorer)
    assert scorer.halved is False


# --- memory and disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [LoraConfig(), LORA])
def test_activations_computed_again_change_nothing(policy_folder: Path, tmp_path: Path, lora: LoraConfig) -> None:
    plain, again = ListTracker(), ListTracker()
    run(config_of(policy_folder, lora=lora), tmp_path / "plain", tracker=plain)
    run(config_of(policy_folder, lora=lora, gradient_checkpointing=True), tmp_path / "again", tracker=again)
    for step, row in logged(plain).items():
        assert logged(again)[step] == pytest.approx(row, abs=1e-5)
    for ours, theirs in zip(policies(tmp_path / "plain"), policies(tmp_path / "again"), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_what_is_saved_between_checkpoints_is_resumed_from_and_goes_once_it_is_not_needed(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, num_checkpoints=1, save_minutes=1e-9)
    whole, dying, after = ListTracker(), DyingTracker(4), ListTracker()
    run(config, tmp_path / "whole", tracker=whole)
    with pytest.raises(RuntimeError, match="the machine went away"):
        run(config, tmp_path / "torn", tracker=dying)
    assert complete_steps(tmp_path / "torn") == [2, 3]
    said: list[str] = []
    run(config, tmp_path / "torn", tracker=after, said=said)
    said = [line for line in said if not line.startswith("warning: ")]
    assert said == ["resuming torn from step-000003"]
    assert logged(dying) | logged(after) == logged(whole)
    assert not (tmp_path / "torn" / "evals" / "step-000003.json").exists()  # no hooks are due between checkpoints


class StoppingScorer(LengthScorer):
    """Sends SIGTERM to its own process when it is asked for the fourth time: in the third batch's rollout."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        if len(self.calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().score(prompts, completions)


def test_a_signal_in_a_rollout_does_not_wait_for_the_update(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, num_checkpoints=1)
    whole, stopped, after = ListTracker(), ListTracker(), ListTracker()
    run(config, tmp_path / "whole", tracker=whole)
    with pytest.raises(Preempted, match="saved at batch 2 of 4"):
        run(config, tmp_path / "torn", tracker=stopped, scorer=StoppingScorer())
    assert list(stopped.on("train/step")) == [1, 2]
    assert complete_steps(tmp_path / "torn") == [2]
    run(config, tmp_path / "torn", tracker=after)
    assert logged(stopped) | logged(after) == logged(whole)
    assert all(torch.equal(a, b) for a, b in zip(policies(tmp_path / "whole"), policies(tmp_path / "torn"), strict=True))


class FailingScorer(LengthScorer):
    """Fails once it has been asked twice."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        if len(self.calls) == 2:
            raise ValueError("the endpoint is gone")
        return super().score(prompts, completions)


def test_a_reward_that_fails_leaves_what_was_saved(policy_folder: Path, tmp_path: Path) -> None:
    scorer: Scorer = FailingScorer()
    with pytest.raises(ValueError, match="the endpoint is gone"):
        run(config_of(policy_folder), tmp_path, scorer=scorer)
    assert complete_steps(tmp_path) == [1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {
                "lora": LORA,
                "model": ModelConfig(path="x", quantize=Quantize.nf4),
                "rollout": RolloutConfig(kind=RolloutKind.vllm, url="http://x", folder="y"),
            },
            "rollout.kind=vllm is sent whole weights, and model.quantize=nf4 packs them",
        ),
        ({"model": ModelConfig(path="x", dtype=Dtype.fp16)}, "model.dtype=fp16 would need"),
        ({"lora": LoraConfig(rank=4, dropout=0.1)}, "lora.dropout=0.1 would train another policy"),
        ({"save_minutes": 0.0}, "save_minutes is 0.0"),
        ({"group_size": 0}, "group_size is 0"),
    ],
)
def test_what_cannot_run_is_refused_with_its_key(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PPOConfig(**{"model": ModelConfig(path="x"), "prompts": ["p.jsonl"], **options})
