"""Prompt trees change the work, never the result: rewards, losses and gradients are those of one row at a time."""

# pyright: reportPrivateUsage=false

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    pipeline,
)
from trl.trainer.reward_trainer import DataCollatorForPreference

from core.config import Dtype, ModelConfig
from core.data.chat import encode_answered, pad_id, preamble
from core.hooks.run_context import RunContext
from core.models.head import padded_rewards, tree_rewards
from core.models.load import load_reward_model
from core.process.world import World
from core.records import Dialogue, Message, Preference, user
from core.scorers.reward_model import RewardModelScorer
from core.trees.attention import tree_attention
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.loss import bradley_terry_loss
from rmtrain.session import RMSession, num_unique_tokens
from rmtrain.tokens import TokenPair
from rmtrain.train import train
from tests.fakes import only_id

WORDS = ("name", "a", "fruit", "plum", "is", "the", "sum", "of", "what", "two", "and", "three", "in", "one", "short", "sentence")
TOLERANCE = {"abs": 1e-5, "rel": 0}


def text(draw: random.Random, most: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(0, most)))


def questions() -> tuple[list[Dialogue], list[list[str]]]:
    """Prompts of one turn, of several, and with a system turn; completions that are long, empty, equal, or begin alike."""
    draw = random.Random(0)
    prompts: list[Dialogue] = []
    completions: list[list[str]] = []
    for number in range(12):
        turns = user(f"{number} {text(draw, 40)}")
        if number % 4 == 1:
            turns = (Message(role="system", content=text(draw, 10)), *turns)
        if number % 4 == 2:
            turns = (*turns, Message(role="assistant", content=text(draw, 20)), *user(text(draw, 20)))
        prompts.append(turns)
        begun = text(draw, 30)
        completions.append([begun, "", *(f"{begun} {text(draw, 8)}" for _ in range(draw.randint(0, 4))), text(draw, 60), begun])
    return prompts, completions


PROMPTS, COMPLETIONS = questions()


def tiny(kind: str, tokenizer: PreTrainedTokenizerFast, auto: Any = AutoModelForSequenceClassification, **options: Any) -> PreTrainedModel:
    """A random model of a width that vector instructions divide: beside it, the last values of a tensor round otherwise."""
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "initializer_range": 0.3,
        "bos_token_id": only_id(tokenizer.bos_token_id),
        "eos_token_id": only_id(tokenizer.eos_token_id),
        "pad_token_id": pad_id(tokenizer),
        "num_labels": 1,
    } | options
    torch.manual_seed(0)
    return auto.from_config(AutoConfig.for_model(kind, **settings)).eval()


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return tiny("llama", tokenizer, num_key_value_heads=2)


def token_rows(tokenizer: PreTrainedTokenizerFast) -> list[list[list[int]]]:
    """The token ids of every completion with its prompt, prompt by prompt."""
    return [encode_answered(tokenizer, [prompt] * len(answers), answers) for prompt, answers in zip(PROMPTS, COMPLETIONS, strict=True)]


def one_at_a_time(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.stack([model(input_ids=torch.tensor([row]), use_cache=False).logits[0, 0] for row in rows])


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    assert len(found) == len(list(model.parameters()))
    return found


def assert_equal_gradients(ours: dict[str, Tensor], naive: dict[str, Tensor]) -> None:
    for name, expected in naive.items():
        assert expected.norm() > 0, name
        assert (ours[name] - expected).norm() <= 1e-4 * expected.norm(), name


@torch.no_grad()
def test_rewards_on_trees_padded_and_one_at_a_time_are_equal(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    groups = token_rows(tokenizer)
    rows = [row for group in groups for row in group]
    naive = one_at_a_time(model, rows).tolist()
    assert max(naive) - min(naive) > 1
    assert padded_rewards(model, rows, pad_id(tokenizer)).tolist() == pytest.approx(naive, **TOLERANCE)
    for beginning in ((), preamble(tokenizer)):
        with tree_attention(model):
            assert tree_rewards(model, groups, beginning).tolist() == pytest.approx(naive, **TOLERANCE)
    scorer = RewardModelScorer(model, tokenizer)
    for padding_reason in (None, "the test wants it"):
        scorer.padding_reason = padding_reason
        assert [reward for rewards in scorer.score(PROMPTS, COMPLETIONS) for reward in rewards] == pytest.approx(naive, **TOLERANCE)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def scored(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, list[list[float]]]:
    """A model in two number formats, and its rewards for all prompts in one batch."""
    model = tiny("llama", tokenizer, num_key_value_heads=2)
    model = model.bfloat16() if request.param == "bfloat16" else model
    return model, RewardModelScorer(model, tokenizer).score(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize("batch_tokens", [1, 200, 500, 2000])
def test_the_size_of_the_batches_does_not_change_a_bit(
    scored: tuple[PreTrainedModel, list[list[float]]], tokenizer: PreTrainedTokenizerFast, batch_tokens: int
) -> None:
    model, rewards = scored
    assert RewardModelScorer(model, tokenizer, batch_tokens=batch_tokens).score(PROMPTS, COMPLETIONS) == rewards


def test_neither_the_order_of_the_prompts_nor_that_of_the_completions_changes_a_bit(
    scored: tuple[PreTrainedModel, list[list[float]]], tokenizer: PreTrainedTokenizerFast
) -> None:
    model, rewards = scored
    for seed in range(3):
        draw = random.Random(seed)
        order = draw.sample(range(len(PROMPTS)), len(PROMPTS))
        inner = [draw.sample(range(len(answers)), len(answers)) for answers in COMPLETIONS]
        scorer = RewardModelScorer(model, tokenizer, batch_tokens=700)
        shuffled = scorer.score([PROMPTS[i] for i in order], [[COMPLETIONS[i][j] for j in inner[i]] for i in order])
        assert shuffled == [[rewards[i][j] for j in inner[i]] for i in order]


def test_a_prompt_alone_has_the_rewards_it_has_among_others_to_the_last_bit(
    scored: tuple[PreTrainedModel, list[list[float]]], tokenizer: PreTrainedTokenizerFast
) -> None:
    model, rewards = scored
    scorer = RewardModelScorer(model, tokenizer)
    assert [scorer.score([prompt], [answers])[0] for prompt, answers in zip(PROMPTS, COMPLETIONS, strict=True)] == rewards


def test_equal_completions_have_equal_rewards(scored: tuple[PreTrainedModel, list[list[float]]]) -> None:
    _, rewards = scored
    assert all(row[0] == row[-1] for row in rewards)
    assert len({reward for row in rewards for reward in row}) > 40


@torch.no_grad()
def test_a_saved_reward_model_scores_alike_here_in_a_pipeline_and_in_trl(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rewards = [row[:2] for row in RewardModelScorer(model, tokenizer).score(PROMPTS, COMPLETIONS)]
    pairs = [answers[:2] for answers in COMPLETIONS]

    loaded, loaded_tokenizer = load_reward_model(ModelConfig(path=str(tmp_path)))
    assert RewardModelScorer(loaded, loaded_tokenizer).score(PROMPTS, pairs) == [pytest.approx(row, **TOLERANCE) for row in rewards]

    classify = pipeline("text-classification", model=str(tmp_path), function_to_apply="none", device="cpu")
    for prompt, answers, expected in zip(PROMPTS, pairs, rewards, strict=True):
        turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
        texts = [
            str(tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}], tokenize=False)) for answer in answers
        ]
        assert [result["score"] for result in classify(texts)] == pytest.approx(expected, **TOLERANCE)

    # As trl.RewardTrainer collates a batch and calls the model: chosen rows first, then rejected ones.
    examples = [{"chosen_ids": rows[0], "rejected_ids": rows[1]} for rows in token_rows(tokenizer)]
    inputs = DataCollatorForPreference(pad_token_id=pad_id(tokenizer))(examples)
    chosen_B, rejected_B = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path)(**inputs, use_cache=False).logits.squeeze(-1).chunk(2)
    )
    assert chosen_B.tolist() == pytest.approx([row[0] for row in rewards], **TOLERANCE)
    assert rejected_B.tolist() == pytest.approx([row[1] for row in rewards], **TOLERANCE)


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize(("kind", "num_key_value_heads"), [("llama", 4), ("llama", 2), ("qwen2", 2)])
def test_gradients_through_trees_equal_those_of_one_row_at_a_time(
    tokenizer: PreTrainedTokenizerFast, kind: str, num_key_value_heads: int, is_checkpointed: bool
) -> None:
    model = tiny(kind, tokenizer, num_key_value_heads=num_key_value_heads).train()
    groups = token_rows(tokenizer)[:6]
    weights_R = torch.randn(sum(map(len, groups)), generator=torch.Generator().manual_seed(0))
    (weights_R * one_at_a_time(model, [row for group in groups for row in group])).sum().backward()
    naive = gradients(model)
    if is_checkpointed:
        model.activation_checkpointing_enable()
    for beginning in ((), preamble(tokenizer)):
        with tree_attention(model):
            (weights_R * tree_rewards(model, groups, beginning)).sum().backward()
        assert_equal_gradients(gradients(model), naive)


def pairs_of(tokenizer: PreTrainedTokenizerFast) -> list[TokenPair]:
    """Six pairs, two of whose sides are equal."""
    draw = random.Random(1)
    rows = [(group[0], draw.choice(group)) for group in token_rows(tokenizer)[:5]]
    rows.append((rows[0][0], rows[0][0]))
    return [TokenPair(chosen=np.array(chosen), rejected=np.array(rejected), margin=draw.random()) for chosen, rejected in rows]


def session_of(folder: Path, tokenizer: PreTrainedTokenizerFast, kind: str = "llama", **options: Any) -> RMSession:
    """A session on a tiny model of that kind, with the pairs of `pairs_of` as its data."""
    shape = {"head_dim": 8} if kind.startswith("gemma") else {"num_key_value_heads": 2}
    policy = tiny(kind, tokenizer, AutoModelForCausalLM, **shape)
    policy.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    config = RewardModelConfig(
        model=ModelConfig(path=str(folder / "policy"), dtype=options.pop("dtype", Dtype.fp32)),
        data=PreferenceDataConfig(paths=["unused.jsonl"]),
        batch_size=6,
        max_length=512,
        **options,
    )
    world = World(rank=0, size=1, device=torch.device("cpu"))
    session = RMSession(config, [Preference(prompt=user("A fruit?"), chosen="A plum.", rejected="No.")], world=world, say=lambda _: None)
    session.pairs, session.has_margin = pairs_of(tokenizer), True
    return session


def after_a_batch(session: RMSession) -> tuple[float, dict[str, Tensor]]:
    """The mean loss of the session's pairs as one batch, and its gradients."""
    sums = session.accumulate(session.pairs)()
    return sums.metrics()["loss"], gradients(session.model)


@pytest.mark.parametrize("has_margin", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma", "gemma2"])
def test_loss_and_gradients_of_a_batch_are_those_of_one_row_at_a_time(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, kind: str, has_margin: bool
) -> None:
    session = session_of(tmp_path, tokenizer, kind, label_smoothing=0.1, center=0.01)
    assert bool(session.rewards.padding_reason) == (kind == "gemma2")  # whose sliding windows keep it from trees
    session.has_margin = has_margin
    pairs = session.pairs
    loss, ours = after_a_batch(session)
    chosen_B = one_at_a_time(session.model, [pair.chosen.tolist() for pair in pairs])
    rejected_B = one_at_a_time(session.model, [pair.rejected.tolist() for pair in pairs])
    margin_B = torch.tensor([pair.margin for pair in pairs]) if has_margin else None
    expected = bradley_terry_loss(chosen_B, rejected_B, margin_B=margin_B, label_smoothing=0.1, center=0.01)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    assert_equal_gradients(ours, gradients(session.model))


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("split", [{"micro_batch_size": 1}, {"micro_batch_size": 4}, {"micro_batch_tokens": 90}])
def test_however_a_batch_is_split_its_gradient_is_that_of_padding_and_the_model_is_left_as_it_was(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, split: dict[str, int], is_checkpointed: bool
) -> None:
    whole = session_of(tmp_path / "whole", tokenizer)
    whole.rewards.padding_reason = "the test wants it"
    expected, naive = after_a_batch(whole)
    session = session_of(tmp_path / "split", tokenizer, gradient_checkpointing=is_checkpointed, **dict[str, Any](split))
    loss, ours = after_a_batch(session)
    assert session.model.config._attn_implementation == "sdpa"
    assert loss == pytest.approx(expected, abs=1e-6)
    assert_equal_gradients(ours, naive)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_training_in_bfloat16_computes_in_it_and_keeps_gradients_in_fp32(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, is_checkpointed: bool
) -> None:
    _, exact = after_a_batch(session_of(tmp_path / "exact", tokenizer))
    session = session_of(tmp_path / "half", tokenizer, dtype=Dtype.bf16, gradient_checkpointing=is_checkpointed)
    formats: set[torch.dtype] = set()
    up = session.model.get_submodule("model.layers.0.mlp.up_proj")
    up.register_forward_hook(lambda _module, _inputs, output: formats.add(output.dtype))
    _, ours = after_a_batch(session)
    assert formats == {torch.bfloat16}
    for name, expected in exact.items():
        assert ours[name].dtype == torch.float32
        assert (ours[name] - expected).norm() < 0.2 * expected.norm(), name


def test_a_pair_is_counted_by_its_unique_tokens() -> None:
    # 12 + 2 + 1 tokens; one side the beginning of the other: 5; two equal sides: 2.
    rows = [([*range(3, 15), 1, 2], [*range(3, 15), 2]), ([1, 2, 3, 4, 5], [1, 2, 3]), ([1, 2], [1, 2])]
    pairs = [TokenPair(chosen=np.array(chosen), rejected=np.array(rejected), margin=0.0) for chosen, rejected in rows]
    assert [num_unique_tokens(pair) for pair in pairs] == [15, 5, 2]


@pytest.mark.parametrize(
    ("kind", "options"), [("gemma2", {"head_dim": 8, "sliding_window": 16}), ("gemma3_text", {"head_dim": 8, "sliding_window": 16})]
)
def test_training_of_an_architecture_without_trees_is_padded_and_says_so(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    policy = tiny(kind, tokenizer, AutoModelForCausalLM, **options)
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    said = [line for line in said_in_training(tmp_path) if "padding" in line]
    assert len(said) == 1
    assert said[0].startswith("training with padding: Gemma")
    assert said[0].endswith("ForSequenceClassification has layers of sliding_attention")


def test_training_on_trees_says_nothing_of_padding(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    assert not [line for line in said_in_training(tmp_path) if "padding" in line]


def said_in_training(folder: Path) -> list[str]:
    """What is said while a reward model is trained for two steps from the policy in a folder."""
    config = RewardModelConfig(
        model=ModelConfig(path=str(folder / "policy")),
        data=PreferenceDataConfig(paths=["unused.jsonl"]),
        batch_size=2,
        micro_batch_size=2,
        num_checkpoints=1,
        max_length=256,
    )
    preferences = [Preference(prompt=user(f"Name a fruit, {i}."), chosen="A plum.", rejected="No.") for i in range(4)]
    said: list[str] = []
    (folder / "run").mkdir()
    train(config, RunContext(dir=folder / "run", say=said.append), preferences=preferences)
    return said
