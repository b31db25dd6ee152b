"""A saved reward model gives the same rewards in other tools: the files say it under the names of transformers 4 as well."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaTokenizer,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from core.config import LoraConfig, ModelConfig
from core.models.export import export_model, read_weights, with_transformers4_names
from core.models.load import load_reward_model, new_reward_model
from tests.fakes import tiny_llama, word_tokenizer

IDS = torch.tensor([[1, 7, 8, 9, 4], [1, 11, 10, 6, 5], [1, 3, 3, 9, 7]])
TOLERANCE = {"abs": 1e-5, "rel": 0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def rewards(model: Any) -> list[float]:
    with torch.no_grad():
        return model(IDS.to(model.device)).logits[:, 0].tolist()


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def stirred(model: PreTrainedModel) -> PreTrainedModel:
    """The model with all that it trains drawn at random, as far from its start as training would bring it."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, 0.3, generator=draw)
    return model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A policy whose tokenizer has no pad token, so that training adds one and the embeddings grow."""
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_llama(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def far_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForSequenceClassification:
    """A reward model with scaled rotary embeddings, which no version of transformers has by default."""
    torch.manual_seed(1)
    return LlamaForSequenceClassification(tiny_llama(tokenizer, num_labels=1, rope_theta=100000.0, rope_scaling=dict(LLAMA3))).eval()


def test_the_configuration_says_what_transformers_4_reads_and_5_reads_it_back(
    far_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    export_model(far_model, tokenizer, tmp_path)
    found = read(tmp_path / "config.json")
    # Version 4 has the base of the angles beside what scales them, version 5 has one mapping for both.
    assert found["rope_theta"] == 100000.0
    assert found["rope_scaling"] == LLAMA3
    assert found["rope_parameters"] == LLAMA3 | {"rope_theta": 100000.0}
    assert found["torch_dtype"] == found["dtype"] == "float32"
    assert found["pad_token_id"] == tokenizer.pad_token_id
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.rope_parameters == far_model.config.rope_parameters
    assert rewards(loaded) == pytest.approx(rewards(far_model), **TOLERANCE)


def test_a_model_saved_here_is_loaded_here(
    far_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    export_model(far_model, tokenizer, tmp_path)
    model, _ = load_reward_model(ModelConfig(path=str(tmp_path)))
    assert rewards(model) == rewards(far_model)


@pytest.mark.parametrize(
    ("kind", "options", "old"),
    [
        (Qwen2Config, {"rope_theta": 1e6}, {"rope_theta": 1e6, "rope_scaling": None}),
        # The base of layers that see everything, and that of layers with a window, which Gemma 3 has 10000 for by default.
        (Gemma3TextConfig, {"rope_theta": 2e6}, {"rope_theta": 2e6, "rope_local_base_freq": 10000.0, "rope_scaling": None}),
        (GPTNeoXConfig, {"rotary_emb_base": 3e4, "rotary_pct": 0.5}, {"rotary_emb_base": 3e4, "rotary_pct": 0.5}),
        (
            # In version 4 it refuses a fourth key.
            Phi3Config,
            {"pad_token_id": 0, "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}},
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}},
        ),
    ],
)
def test_the_rotary_embeddings_of_other_architectures_have_their_old_names_too(
    kind: type[PreTrainedConfig], options: dict[str, Any], old: dict[str, Any], tmp_path: Path
) -> None:
    kind(**options).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    before = AutoConfig.from_pretrained(tmp_path).to_dict()["rope_parameters"]
    file.write_text(json.dumps(with_transformers4_names(read(file))), encoding="utf-8")
    assert {key: read(file)[key] for key in old} == old
    assert AutoConfig.from_pretrained(tmp_path).to_dict()["rope_parameters"] == before


def test_a_configuration_inside_another_has_the_old_names_too() -> None:
    inner = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    assert with_transformers4_names({"text_config": inner, "id2label": {"0": "a"}}) == {
        "text_config": {**inner, "rope_theta": 5e5, "rope_scaling": None},
        "id2label": {"0": "a"},
    }


def test_the_tokenizer_is_of_a_class_that_transformers_4_knows_and_5_reads_it_back_as_it_was(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    special = copy.deepcopy(tokenizer)
    special.add_special_tokens({"extra_special_tokens": ["<|x|>"]})
    export_model(reward_model, special, tmp_path)
    found = read(tmp_path / "tokenizer_config.json")
    assert found["tokenizer_class"] == "PreTrainedTokenizerFast"
    # Version 4 would give this class token types, which a Llama refuses, and wants a mapping as extra_special_tokens.
    assert found["model_input_names"] == ["input_ids", "attention_mask"]
    assert found["additional_special_tokens"] == ["<|x|>"]
    assert "extra_special_tokens" not in found
    assert found["chat_template"] == (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == tokenizer.chat_template
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is type(special)
    assert again.extra_special_tokens == ["<|x|>"]
    assert (again.pad_token_id, again.bos_token_id, again.eos_token_id) == (0, 1, 2)
    assert again.chat_template == tokenizer.chat_template
    assert again("A plum.<|x|>")["input_ids"] == special("A plum.<|x|>")["input_ids"]


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_tokenizer_that_adds_no_bos_says_so_since_that_of_llama_4_adds_it_unasked(
    reward_model: LlamaForSequenceClassification, tmp_path: Path, adds_bos: bool
) -> None:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=[], add_bos_token=adds_bos)
    export_model(reward_model, tokenizer, tmp_path)
    assert read(tmp_path / "tokenizer_config.json").get("add_bos_token", True) == adds_bos
    assert AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"] == [1, 3, 4][not adds_bos :]


def test_weights_gathered_elsewhere_are_written_in_place_of_the_models_own(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    gathered = {name: weight.bfloat16() for name, weight in reward_model.state_dict().items()}
    # As under ZeRO-3, where no process holds the weights in its model.
    empty = copy.deepcopy(reward_model)
    torch.nn.Module.to(empty, torch.device("meta"))
    export_model(empty, tokenizer, tmp_path, weights=gathered.items())
    assert read(tmp_path / "config.json")["dtype"] == "bfloat16"
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, gathered[name]), name


def test_weights_are_written_in_another_dtype_and_the_model_keeps_its_own(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    export_model(reward_model, tokenizer, tmp_path, dtype=torch.bfloat16)
    assert reward_model.dtype == torch.float32
    assert (read(tmp_path / "config.json")["dtype"], read(tmp_path / "config.json")["torch_dtype"]) == ("bfloat16", "bfloat16")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, reward_model.state_dict()[name].bfloat16()), name


def test_weights_that_are_tied_stay_one_in_another_dtype(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tied = LlamaForCausalLM(tiny_llama(tokenizer, tie_word_embeddings=True))
    export_model(tied, tokenizer, tmp_path, dtype=torch.bfloat16)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, tied.model.embed_tokens.weight.bfloat16())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("is_gathered", [False, True])
def test_an_adapter_gives_its_rewards_merged_here_and_unmerged_in_peft_also_where_a_pad_token_was_added(
    base: Path, tmp_path: Path, is_gathered: bool
) -> None:
    model, tokenizer = new_reward_model(ModelConfig(path=str(base)), seed=0, lora=LoraConfig(rank=2, alpha=8))
    stirred(model)
    expected = rewards(model)
    weights: dict[str, Tensor] | None = None
    if is_gathered:
        weights = {name: weight.clone() for name, weight in model.state_dict().items()}
        stirred(model).get_parameter("score.weight").data.zero_()
    export_model(model, tokenizer, tmp_path / "lora", weights=None if weights is None else weights.items())

    plain, _ = load_reward_model(ModelConfig(path=str(tmp_path / "lora")))
    assert rewards(plain) == pytest.approx(expected, **TOLERANCE)
    unmerged = AutoPeftModelForSequenceClassification.from_pretrained(str(tmp_path / "lora"), num_labels=1)
    unmerged.get_base_model().config.pad_token_id = tokenizer.pad_token_id  # the base has none
    assert rewards(unmerged) == pytest.approx(expected, **TOLERANCE)
    # The adapter matters: the same head on the base gives other rewards.
    fresh, _ = new_reward_model(ModelConfig(path=str(base)), seed=0)
    with torch.no_grad():
        fresh.get_parameter("score.weight").copy_(plain.get_parameter("score.weight"))
    assert rewards(fresh) != pytest.approx(expected, abs=0.05)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_merged_and_saved_again_is_a_plain_model_of_the_same_rewards(base: Path, tmp_path: Path) -> None:
    model, tokenizer = new_reward_model(ModelConfig(path=str(base)), seed=0, lora=LoraConfig(rank=2))
    export_model(stirred(model), tokenizer, tmp_path / "lora")
    export_model(*load_reward_model(ModelConfig(path=str(tmp_path / "lora"))), tmp_path / "plain")
    assert not (tmp_path / "plain" / "adapter_config.json").exists()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    assert rewards(loaded) == pytest.approx(rewards(model), **TOLERANCE)
    assert loaded.config.pad_token_id == tokenizer.pad_token_id


def test_an_adapters_folder_names_its_base_and_holds_no_more_than_was_trained(base: Path, tmp_path: Path) -> None:
    config = LoraConfig(rank=2, alpha=8, targets=["v_proj", "q_proj"])
    model, tokenizer = new_reward_model(ModelConfig(path=str(base)), seed=0, lora=config)
    export_model(model, tokenizer, tmp_path / "lora")
    found = read(tmp_path / "lora" / "adapter_config.json")
    assert found["base_model_name_or_path"] == str(base.resolve())
    assert (found["task_type"], found["r"], found["lora_alpha"]) == ("SEQ_CLS", 2, 8)
    assert found["target_modules"] == ["q_proj", "v_proj"]
    assert found["modules_to_save"] == ["score"]
    weights = read_weights(tmp_path / "lora")
    # Two layers with two targets of two matrices each, and the head.
    assert len(weights) == 2 * 2 * 2 + 1
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == weights.keys()


def test_weights_are_read_back_by_the_models_own_names(
    base: Path, tmp_path: Path, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    export_model(reward_model, tokenizer, tmp_path / "whole")
    assert read_weights(tmp_path / "whole").keys() == reward_model.state_dict().keys()
    config, lora = ModelConfig(path=str(base)), LoraConfig(rank=2)
    model, words = new_reward_model(config, seed=0, lora=lora)
    export_model(stirred(model), words, tmp_path / "lora")
    again, _ = new_reward_model(config, seed=1, lora=lora)
    assert not again.load_state_dict(read_weights(tmp_path / "lora"), strict=False).unexpected_keys
    assert rewards(again) == rewards(model)
    with pytest.raises(ValueError, match=r"holds no model\.safetensors; name the folder of a checkpoint"):
        read_weights(tmp_path)
