"""RLOO and GRPO by TRL on a tiny policy: our scores reach the updates, and PPO's metrics and files come out."""

# pyright: reportPrivateUsage=false

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.config import Dtype, LoraConfig, ModelConfig, OptimConfig
from core.data.turn_ends import turn_ends
from core.functions import SkippedError
from core.hooks.hook import RunParts, SharedHook, read_evaluation
from core.models.load import load_policy
from core.models.logprobs import LanguageHead
from core.process.precision import without_autocast
from core.records import AXIS, CheckpointSaved, Sampling, user
from core.runs.checkpoints import complete_steps, step_folder
from core.scorers.verifier import VerifierScorer
from ppo.config import Algo, KLConfig, MissingEOS, MissingEOSConfig
from ppo.critic_free.trainer import group_prompts, open_trainer
from ppo.prompts import batch_prompts
from ppo.run import PPOResult
from tests.fakes import LengthScorer, ListTracker, RecordingHook, tiny_llama
from tests.ppo.critic_free.runs import AS_SCORED, BOTH, PROMPTS, config_of, run
from tests.ppo.fakes import ValuesByStep

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
    assert turn_ends(model, tokenizer) == set(trainer.eos_token_ids)
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
    shaping = replace(AS_SCORED, missing_eos=MissingEOSConfig(how=MissingEOS.replace, value=-3.0))
    config = config_of(policy_folder, Algo.rloo, num_batches=1, num_checkpoints=1, max_new_tokens=1, shaping=shaping)
    scorer = LengthScorer()
    run(config, tmp_path, scorer=scorer, tracker=tracker)
    row = tracker.on("train/step")[1]
    # With one token a completion is either EOS, which is no text and scores 0, or cut.
    assert row["train/length"] == 1
    assert row["train/score"] == pytest.approx(-3 * (1 - row["train/eos_rate"]))


def test_answers_that_a_verifier_cannot_judge_are_counted_and_told(policy_folder: Path, tmp_path: Path) -> None:
    def never(text: str, reference: Mapping[str, Any]) -> float:
        raise SkippedError("no verdict")

    tracker, said = ListTracker(), list[str]()
    config = config_of(policy_folder, Algo.rloo, num_batches=1, num_checkpoints=1)
    run(config, tmp_path, scorer=VerifierScorer(never, {prompt: {} for prompt in PROMPTS}), tracker=tracker, said=said)
    assert tracker.on("train/step")[1]["train/skipped"] == 1.0
    assert [line for line in said if "in batch 1 a verifier could not judge 100.0% of the answers" in line]


@BOTH
def test_the_reward_rises(policy_folder: Path, tmp_path: Path, algo: Algo) -> None:
    tracker = ListTracker()
    config = config_of(
        policy_folder, algo, num_batches=12, num_checkpoints=1, batch_size=64, minibatch_size=32, micro_batch_size=32, max_new_tokens=12
    )
    run(replace(config, optim=OptimConfig(lr=3e-3)), tmp_path, tracker=tracker)
    # The rate of a batch's last update: the same as PPO logs, and none of a step that is not taken.
    num = config.num_updates
    rates = [3e-3 * (1 - (batch * config.updates_per_batch - 1) / num) for batch in tracker.on("train/step")]
    assert [row["train/lr"] for row in tracker.on("train/step").values()] == pytest.approx(rates)
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
    outcome = run(
        config_of(policy_folder, algo), tmp_path, hooks=[recording, ValuesByStep({0: 0.1, 1: 0.3, 2: 0.5, 3: 0.5, 4: 0.2})], tracker=tracker
    )
    assert outcome == PPOResult(last_step=4, best_step=2, best_value=0.5, num_dropped_prompts=0)
    assert (tmp_path / "best").resolve() == step_folder(tmp_path, 2).resolve()
    assert complete_steps(tmp_path) == [2, 4]
    assert [(event.step, event.num_steps, event.run_dir) for event in recording.events] == [(step, 4, tmp_path) for step in range(5)]
    assert [event.path for event in recording.events] == [policy_folder, *(step_folder(tmp_path, step) for step in (1, 2, 3, 4))]
    assert [(ended.run_dir, ended.step) for ended in recording.ended] == [(tmp_path, 4)]
    assert all(read_evaluation(tmp_path, step) == {AXIS: step, **tracker.on(AXIS)[step]} for step in range(5))
    assert sorted(tracker.on("train/step")) == [1, 2, 3, 4]
    saved, _ = load_policy(ModelConfig(path=str(step_folder(tmp_path, 4))))
    assert all(not torch.equal(a, b) for a, b in zip(saved.parameters(), policy.parameters(), strict=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "checkpoints", "evals"]
    assert [(step_folder(tmp_path, step) / "state" / "optimizer.pt").exists() for step in (1, 2, 3, 4)] == [False, False, False, True]


def test_checkpoints_are_spread_evenly_over_the_batches(policy_folder: Path, tmp_path: Path) -> None:
    recording = RecordingHook(**{"downstream/average": 1.0})
    run(config_of(policy_folder, Algo.grpo, num_batches=5, num_checkpoints=2), tmp_path, hooks=[recording])
    assert [event.step for event in recording.events] == [0, 2, 5]  # 5 / 2 rounds to the even 2


def test_the_reference_is_the_policy_as_it_was_loaded(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
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
    assert len(reference.get_input_embeddings().weight) == len(own) == len(bare)
    assert isinstance(reference.lm_head, LanguageHead)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("rank", [0, 4])
@BOTH
def test_under_bf16_the_heads_of_policy_and_reference_are_not(policy_folder: Path, tmp_path: Path, algo: Algo, rank: int) -> None:
    config = config_of(policy_folder, algo, model=ModelConfig(path=str(policy_folder), dtype=Dtype.bf16), lora=LoraConfig(rank=rank))
    policy, tokenizer = load_policy(ModelConfig(path=str(policy_folder)))
    policy.get_submodule("lm_head").get_parameter("weight").data.mul_(4)  # logits of the size of a real model's
    trainer = open_trainer(config, policy, tokenizer, PROMPTS, reward=lambda **_: [], scratch=tmp_path)
    ids_BL = torch.randint(6, 250, (2, 24), generator=torch.Generator().manual_seed(0))
    models: list[Any] = [model for model in (trainer.model, trainer.ref_model) if model is not None]
    for model in models:
        inner = model.get_base_model() if rank else model
        with torch.no_grad(), trainer.accelerator.autocast():
            hidden_BLH = inner.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
            found_BT = trainer._get_per_token_logps_and_entropies(model, ids_BL, torch.ones_like(ids_BL), 12)[0]
        logits_BLV = hidden_BLH[:, 11:-1].double() @ inner.get_output_embeddings().weight.double().T
        expected_BT = torch.log_softmax(logits_BLV / config.temperature, -1).gather(-1, ids_BL[:, 12:, None]).squeeze(-1)
        assert (found_BT - expected_BT).abs().max() < 1e-4  # 0.05 where the head is in bf16
    assert len(models) == (1 if rank else 2)


def test_prompts_beyond_the_limit_are_dropped_counted_and_told(policy_folder: Path, tmp_path: Path) -> None:
    said, prompts = list[str](), [*PROMPTS, user("fruit " * 100)]
    config = config_of(policy_folder, Algo.grpo, num_batches=1, num_checkpoints=1, max_prompt_length=60)
    assert run(config, tmp_path, prompts=prompts, said=said).num_dropped_prompts == 1
    assert said[0] == f"dropped 1 of {len(prompts)} prompts longer than max_prompt_length=60 tokens"


class FormatHook(SharedHook):
    """Notes the format of hidden states and whether the policy's answers can be drawn."""

    def __init__(self) -> None:
        self.formats: list[torch.dtype] = []

    def measure(self, event: CheckpointSaved, parts: RunParts) -> dict[str, float]:
        ids_BL = torch.tensor([[3, 4, 5]])
        layer = event.model.get_submodule("model.layers.0.mlp.down_proj")
        self.formats.append(layer(torch.zeros(1, layer.get_parameter("weight").shape[1])).dtype)
        with torch.no_grad(), without_autocast(ids_BL.device):
            # By accelerate's forward pass they would be rounded to bf16 on the way.
            logits, own = (
                forward(input_ids=ids_BL, use_cache=False).logits
                for forward in (event.model, type(event.model).forward.__get__(event.model))
            )
        assert torch.equal(logits, own)
        assert parts.generator is not None
        parts.generator.generate([user("Name 1 fruits.")], Sampling(max_new_tokens=3))
        return {"downstream/average": 0.0}


@BOTH
def test_in_bf16_hooks_find_the_policy_as_it_was_before_training_at_every_step(policy_folder: Path, tmp_path: Path, algo: Algo) -> None:
    hook = FormatHook()
    config = config_of(policy_folder, algo, num_batches=2, num_checkpoints=1, model=ModelConfig(path=str(policy_folder), dtype=Dtype.bf16))
    run(config, tmp_path, hooks=[hook])
    assert hook.formats == [torch.bfloat16, torch.bfloat16]
