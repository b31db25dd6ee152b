"""LoRA on a base packed as nf4: same gradients as unpacked, and merged into what was trained on."""

import json
from importlib import util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from core.config import Dtype, ModelConfig, Quantize
from core.models.adapters import PACKED_BASE
from core.models.export import export_model, read_weights
from core.models.head import reward_obstacle, tree_rewards
from core.models.load import load_reward_model, new_reward_model
from core.trees.attention import tree_attention
from tests.core.models.lora import GROUPS, LORA, assert_close_gradients, config, gradients, logits, pair_loss, stirred
from tests.fakes import tiny_llama

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
]


def test_packed_weights_without_an_adapter_are_refused(policy_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.quantize=nf4 quantizes the weights, and quantized weights cannot be trained"):
        new_reward_model(ModelConfig(path=str(policy_folder), quantize=Quantize.nf4), seed=0)


@pytest.fixture
def wide_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A policy as wide as bitsandbytes asks for on a CPU: multiples of 32."""
    if util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    shape = tiny_llama(tokenizer)
    shape.hidden_size, shape.intermediate_size, shape.head_dim, shape.initializer_range = 64, 64, 32, 0.1
    torch.manual_seed(0)
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


def unpacked(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The same model with its packed weights written out as the numbers that they stand for."""
    from bitsandbytes.functional import dequantize_4bit

    plain, _ = new_reward_model(config(folder), seed=0, lora=LORA)
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            own = model.get_parameter(name)
            weight.copy_(dequantize_4bit(own.data, own.quant_state) if own.dtype == torch.uint8 else own)  # type: ignore[attr-defined]
    return plain


def test_an_adapter_on_packed_weights_has_the_gradients_of_those_weights_unpacked(wide_folder: Path) -> None:
    packed = ModelConfig(path=str(wide_folder), quantize=Quantize.nf4)
    model, _ = new_reward_model(packed, seed=0, lora=LORA)
    assert type(model.get_submodule("model.layers.0.mlp.up_proj.base_layer")).__name__ == "Linear4bit"
    # Rewards in evaluation come first, as in a run that resumes: on some CPUs bitsandbytes then lays the weights out anew.
    assert reward_obstacle(stirred(model), 100) is None
    same = unpacked(model, wide_folder)
    found = []
    for each in (model, same):
        each.train()
        with tree_attention(each):
            pair_loss(tree_rewards(each, GROUPS)).backward()
        found.append(gradients(each))
    assert_close_gradients(found[0], found[1], 1e-3)


@pytest.mark.parametrize("dtype", [Dtype.fp32, Dtype.bf16])
def test_training_an_adapter_on_packed_weights_lowers_the_loss(wide_folder: Path, dtype: Dtype) -> None:
    model, _ = new_reward_model(ModelConfig(path=str(wide_folder), quantize=Quantize.nf4, dtype=dtype), seed=0, lora=LORA)
    model.train()
    model.activation_checkpointing_enable()
    frozen = {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
    losses: list[float] = []
    for _ in range(8):
        with tree_attention(model), torch.autocast("cpu", torch.bfloat16, enabled=dtype == Dtype.bf16):
            loss = pair_loss(tree_rewards(model, GROUPS))
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(torch.equal(model.get_parameter(name), weight) for name, weight in frozen.items())


def test_an_adapter_trained_on_packed_weights_is_merged_into_what_they_stood_for_and_so_gives_the_rewards_of_training(
    wide_folder: Path, tmp_path: Path
) -> None:
    packed = ModelConfig(path=str(wide_folder), quantize=Quantize.nf4)
    model, tokenizer = new_reward_model(packed, seed=0, lora=LORA)
    export_model(stirred(model), tokenizer, tmp_path / "lora")
    merged_model, _ = load_reward_model(config(tmp_path / "lora"))
    assert not [name for name, module in merged_model.named_modules() if type(module).__name__ == "Linear4bit"]
    ids_BL = torch.randint(5, 280, (16, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits(merged_model, ids_BL), logits(model, ids_BL), atol=1e-4, rtol=1e-4)
    # Merged into the base as it was before packing the adapter gives other rewards.
    (tmp_path / "lora" / PACKED_BASE).unlink()
    other, _ = load_reward_model(config(tmp_path / "lora"))
    assert (logits(other, ids_BL) - logits(model, ids_BL)).abs().max() > 0.01
    again, _ = new_reward_model(packed, seed=1, lora=LORA)
    again.load_state_dict(read_weights(tmp_path / "lora"), strict=False)
    torch.testing.assert_close(logits(again, ids_BL), logits(model, ids_BL), atol=1e-5, rtol=0)
    # Saved over, a folder does not remember.
    export_model(new_reward_model(config(wide_folder), seed=0, lora=LORA)[0], tokenizer, tmp_path / "lora")
    assert not (tmp_path / "lora" / PACKED_BASE).exists()


def test_a_merged_model_that_was_trained_on_packed_weights_saves_as_a_plain_one(wide_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = new_reward_model(ModelConfig(path=str(wide_folder), quantize=Quantize.nf4), seed=0, lora=LORA)
    export_model(stirred(model), tokenizer, tmp_path / "lora")
    export_model(*load_reward_model(config(tmp_path / "lora")), tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-4, rtol=1e-4)


def test_unpacking_the_base_of_an_adapter_needs_bitsandbytes(wide_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = new_reward_model(ModelConfig(path=str(wide_folder), quantize=Quantize.nf4), seed=0, lora=LORA)
    export_model(model, tokenizer, tmp_path / "lora")
    monkeypatch.setattr("core.models.load.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"lora was trained on a base packed as nf4.* needs the package bitsandbytes; run `pip install"):
        load_reward_model(config(tmp_path / "lora"))
