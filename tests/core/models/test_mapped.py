"""Models that an engine is to shard stay in their files, with the values that they have when they are loaded as a whole."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from core.config import Dtype, LoraConfig, ModelConfig
from core.models.load import load_policy, new_reward_model
from core.models.mapped import first_layers, sharing_copy
from core.process.layers import layer_lists


def saved(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def half(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> str:
    """The policy, saved in bf16."""
    return saved(copy.deepcopy(policy).bfloat16(), tokenizer, tmp_path / "half")


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().float() for name, weight in model.named_parameters()}


def test_mapped_weights_have_the_format_of_the_file_and_the_values_of_a_model_loaded_in_fp32(half: str) -> None:
    said: list[str] = []
    mapped, _ = load_policy(ModelConfig(path=half), mapped=True, say=said.append)
    whole, _ = load_policy(ModelConfig(path=half))
    assert {weight.dtype for weight in mapped.parameters()} == {torch.bfloat16}
    for name, weight in weights_of(whole).items():
        assert torch.equal(weights_of(mapped)[name], weight)
    assert said == []


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_head_stored_in_a_wider_format_than_the_body_loses_nothing(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, prefix: str
) -> None:
    path = saved(copy.deepcopy(reward_model).bfloat16(), tokenizer, tmp_path / "mixed")
    file = tmp_path / "mixed" / "model.safetensors"
    norm = torch.full((reward_model.config.hidden_size,), 1.0001)
    stored = load_file(file) | {"score.weight": reward_model.score.weight.detach().clone(), "model.norm.weight": norm}
    stored = {name.removeprefix("model." if not prefix else ""): weight for name, weight in stored.items()}
    save_file(stored, file, metadata={"format": "pt"})
    mapped, _ = new_reward_model(ModelConfig(path=path, keep_head=True), seed=0, mapped=True)
    assert torch.equal(mapped.get_submodule("score").get_parameter("weight"), reward_model.score.weight)
    assert torch.equal(mapped.get_submodule("model.norm").get_parameter("weight"), norm)
    assert mapped.get_submodule("model.layers.0.mlp.up_proj").get_parameter("weight").dtype == torch.bfloat16


def test_the_new_head_of_a_mapped_model_is_the_one_that_is_drawn_for_a_whole_one(half: str) -> None:
    mapped, _ = new_reward_model(ModelConfig(path=half), seed=3, mapped=True)
    whole, _ = new_reward_model(ModelConfig(path=half), seed=3)
    assert torch.equal(mapped.get_submodule("score").get_parameter("weight"), whole.get_submodule("score").get_parameter("weight"))


def test_what_has_to_be_converted_as_a_whole_is_told(half: str, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    said: list[str] = []
    whole = saved(policy, tokenizer, Path(half).parent / "whole")
    new_reward_model(ModelConfig(path=whole, dtype=Dtype.bf16), seed=0, lora=LoraConfig(rank=2), mapped=True, say=said.append)
    assert len(said) == 1
    assert said[0].startswith(f"{whole} is stored as float32 and asked for as bfloat16, so every process holds the whole model")
    pickled = Path(half).parent / "pickled"
    saved(policy, tokenizer, pickled)
    weights = load_file(pickled / "model.safetensors")
    torch.save(weights, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    load_policy(ModelConfig(path=str(pickled)), mapped=True, say=said.append)
    assert said[1].startswith(f"{pickled} is not saved as safetensors")


def test_a_sharing_copy_lies_in_the_same_memory_and_has_parameters_of_its_own(policy: LlamaForCausalLM) -> None:
    shared = sharing_copy(policy)
    for ours, theirs in zip(shared.parameters(), policy.parameters(), strict=True):
        assert ours is not theirs
        assert ours.data_ptr() == theirs.data_ptr()


def num_layers(model: PreTrainedModel) -> int:
    return len(layer_lists(model)[0])


def test_the_first_layers_are_one_of_every_kind(policy: LlamaForCausalLM) -> None:
    probe = first_layers(copy.deepcopy(policy).bfloat16())
    assert (num_layers(policy), num_layers(probe)) == (policy.config.num_hidden_layers, 1)
    assert probe.dtype == torch.float32
    assert probe(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.shape == (1, 4, policy.config.vocab_size)
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    config = Gemma3TextConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=kinds,
    )
    gemma = AutoModelForCausalLM.from_config(config)
    probe = first_layers(gemma)
    assert num_layers(probe) == 3
    assert torch.isfinite(probe(input_ids=torch.ones(1, 4, dtype=torch.long), use_cache=False).logits).all()


def test_the_first_layers_of_a_model_are_as_small_where_its_layers_are_numbered() -> None:
    config = LlamaConfig(vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=5, num_attention_heads=2)
    assert num_layers(first_layers(LlamaForCausalLM(config))) == 1
