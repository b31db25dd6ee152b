"""A new LoRA adapter changes nothing, trains alone, and has the right gradients."""

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import TaskType
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from core.config import Dtype, LoraConfig
from core.data.chat import pad_id
from core.models.adapters import inject_adapter, injected_adapter, merged_weights
from core.models.export import export_model
from core.models.head import head_of, padded_rewards, reward_obstacle, tree_rewards
from core.models.load import load_reward_model, new_reward_model
from core.models.locate import ModelLocation
from core.trees.attention import tree_attention
from tests.core.models.lora import (
    GROUPS,
    IDS,
    LORA,
    TOLERANCE,
    assert_close_gradients,
    config,
    gradients,
    logits,
    pair_loss,
    rewards,
    stirred,
    trained,
)
from tests.fakes import tiny_llama

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
]


def test_a_fresh_adapter_changes_nothing_and_only_a_b_and_the_head_are_trained(policy_folder: Path) -> None:
    model, _ = new_reward_model(config(policy_folder), seed=3, lora=LORA)
    plain, _ = new_reward_model(config(policy_folder), seed=3)
    assert type(model) is LlamaForSequenceClassification
    assert rewards(model) == rewards(plain)
    # Two layers of seven linear layers each, with two matrices, and the head.
    trained_names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained_names) == 2 * 7 * 2 + 1
    model.train()
    pair_loss(padded_rewards(model, [row for group in GROUPS for row in group], 0)).backward()
    assert gradients(model).keys() == trained_names
    assert "score.weight" in trained_names


def test_a_is_drawn_from_the_seed_as_peft_draws_it_and_b_is_zero(policy_folder: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (new_reward_model(config(policy_folder), seed=seed, lora=LORA)[0] for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    name = "model.layers.0.self_attn.q_proj.lora_{}.default.weight"
    a_RN = first.get_parameter(name.format("A"))
    assert torch.equal(a_RN, again.get_parameter(name.format("A")))
    assert not torch.equal(a_RN, other.get_parameter(name.format("A")))
    assert a_RN.shape == (2, 16)
    # Kaiming's uniform bound for a = sqrt(5): sqrt(6 / (1 + 5) / n) = 1 / sqrt(16); 32 draws come near it.
    assert 0.2 < a_RN.abs().max() <= 0.25
    assert not first.get_parameter(name.format("B")).any()
    # No two layers have the same A.
    assert not torch.equal(a_RN, first.get_parameter(name.format("A").replace("q_proj", "k_proj")))


def test_the_update_of_an_adapter_is_alpha_over_rank_times_b_a(policy_folder: Path) -> None:
    model, _ = new_reward_model(config(policy_folder), seed=3, lora=LORA)
    stirred(model)
    layer = "model.layers.1.mlp.up_proj"
    x_1N = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    weight, a, b = (model.get_parameter(f"{layer}.{part}.weight") for part in ("base_layer", "lora_A.default", "lora_B.default"))
    with torch.no_grad():
        expected = x_1N @ (weight + 8 / 2 * b @ a).T
        torch.testing.assert_close(model.get_submodule(layer)(x_1N), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_the_gradients_of_an_adapter_through_trees_equal_those_through_padded_rows(policy_folder: Path, is_checkpointed: bool) -> None:
    model, tokenizer = new_reward_model(config(policy_folder), seed=3, lora=LORA)
    stirred(model).train()
    assert reward_obstacle(model, 100) is None
    pair_loss(padded_rewards(model, [row for group in GROUPS for row in group], pad_id(tokenizer))).backward()
    expected = gradients(model)
    if is_checkpointed:
        model.activation_checkpointing_enable()
    with tree_attention(model):
        pair_loss(tree_rewards(model, GROUPS)).backward()
    assert_close_gradients(gradients(model), expected, 1e-4)


def test_the_frozen_base_is_held_in_the_number_format_asked_for_and_what_is_trained_in_fp32(policy_folder: Path) -> None:
    model, tokenizer = new_reward_model(config(policy_folder, Dtype.bf16), seed=3, lora=LORA)
    for name, weight in model.named_parameters():
        assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16), name
    stirred(model)
    rows = [row for group in GROUPS for row in group]
    for is_mixed in (False, True):
        with torch.no_grad(), tree_attention(model), torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            on_trees_R = tree_rewards(model, GROUPS)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            padded_R = padded_rewards(model, rows, pad_id(tokenizer))
        torch.testing.assert_close(on_trees_R, padded_R, atol=0.3, rtol=0)  # 8 bits of mantissa through two layers
        assert not torch.equal(padded_R, padded_R.bfloat16().float())  # the head computes in fp32


def test_without_an_adapter_all_weights_are_trained_and_held_in_fp32(policy_folder: Path) -> None:
    for lora in (None, LoraConfig()):
        model, _ = new_reward_model(config(policy_folder, Dtype.bf16), seed=3, lora=lora)
        assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in model.parameters())
        assert injected_adapter(model) is None


def test_dropout_is_that_of_the_adapter_alone(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    LlamaForCausalLM(tiny_llama(tokenizer, attention_dropout=0.5)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for dropout in (0.0, 0.5):
        model, _ = new_reward_model(config(tmp_path), seed=0, lora=LoraConfig(rank=2, dropout=dropout))
        stirred(model).train()
        assert (rewards(model) == rewards(model)) == (dropout == 0.0)


def test_only_the_named_layers_get_an_adapter_and_an_unknown_name_is_refused(policy_folder: Path) -> None:
    model, _ = new_reward_model(config(policy_folder), seed=0, lora=LoraConfig(rank=2, targets=["q_proj", "mlp.up_proj"]))
    assert {name.split(".")[4] for name, weight in model.named_parameters() if "lora" in name and weight.requires_grad} == {
        "q_proj",
        "up_proj",
    }
    for unknown in ("q_prj", "score", "proj"):
        with pytest.raises(
            ValueError, match=rf"lora\.targets names '{unknown}', but the linear layers of a Llama.* are down_proj, gate_proj"
        ):
            new_reward_model(config(policy_folder), seed=0, lora=LoraConfig(rank=2, targets=["q_proj", unknown]))


def test_an_adapter_on_gpt2_goes_on_its_transposed_layers_and_merges(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_head=2, n_layer=2, initializer_range=0.4)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, words = new_reward_model(config(tmp_path), seed=0, lora=LORA)
    adapted = {name.split(".lora_")[0].split(".", 3)[3] for name, _ in model.named_parameters() if "lora" in name}
    assert adapted == {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
    expected = rewards(stirred(model))
    export_model(model, words, tmp_path / "lora")
    merged, _ = load_reward_model(config(tmp_path / "lora"))
    assert rewards(merged) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match=r"names 'q_proj', but the linear layers of a GPT2.* are c_attn, c_fc, c_proj; choose among them"):
        new_reward_model(config(tmp_path), seed=0, lora=LoraConfig(rank=2, targets=["q_proj"]))


def test_a_base_on_the_hub_is_named_with_its_revision(policy_folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model, _ = new_reward_model(config(policy_folder), seed=0)
    inject_adapter(model, LORA, base=ModelLocation(path="org/base", revision="v2"), draw=torch.Generator().manual_seed(0))
    export_model(model, tokenizer, tmp_path)
    found = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (found["base_model_name_or_path"], found["revision"]) == ("org/base", "v2")


def test_an_adapter_on_an_adapter_is_refused_with_a_remedy(lora_policy: tuple[Path, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"lora\.rank=2 on .*lora, an adapter itself; save the merged model and name its folder"):
        new_reward_model(config(lora_policy[0]), seed=0, lora=LORA)


def test_the_head_of_pefts_own_model_is_the_copy_that_is_trained(policy_folder: Path) -> None:
    wrapped = trained(AutoModelForSequenceClassification.from_pretrained(policy_folder, num_labels=1), TaskType.SEQ_CLS)
    model = wrapped.get_base_model()
    assert isinstance(model, PreTrainedModel)
    assert head_of(model).weight.requires_grad
    expected = rewards(wrapped)
    with torch.no_grad(), tree_attention(model):
        assert tree_rewards(model, [IDS.tolist()]).tolist() == pytest.approx(expected, **TOLERANCE)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # GPT-2's weights are transposed, and have biases
def test_weights_merged_on_the_way_make_a_plain_model_with_the_same_logits(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, architecture: str
) -> None:
    shape = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_head=2, n_layer=2, initializer_range=0.4)
    plain: PreTrainedModel = copy.deepcopy(policy) if architecture == "llama" else GPT2LMHeadModel(shape).eval()
    adapted = copy.deepcopy(plain)
    inject_adapter(adapted, LORA, base=ModelLocation(path="org/base"), draw=torch.Generator().manual_seed(0))
    expected = logits(stirred(adapted))
    assert (expected - logits(plain)).abs().max() > 0.1
    names = plain.state_dict().keys()
    merged = dict(merged_weights(adapted.state_dict().items(), adapted))
    assert merged.keys() == names
    plain.load_state_dict(merged)
    assert torch.allclose(logits(plain), expected, atol=1e-5)
    assert dict(merged_weights(plain.state_dict().items(), plain)).keys() == names  # a plain model is left as it is
