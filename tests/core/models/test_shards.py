"""Weights written as they come are those that transformers writes, in files of the same names and content."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, MixtralConfig, PreTrainedConfig, Qwen2MoeConfig

from core.models import shards
from core.models.shards import INDEX, write_weights

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama, tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2),
    "gemma2": Gemma2Config(**SIZES),
    # Their experts are one weight in memory and many in files.
    "mixtral": MixtralConfig(**SIZES, num_local_experts=3),
    "qwen2_moe": Qwen2MoeConfig(**SIZES, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8, shared_expert_intermediate_size=8),
}


def model_of(config: PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_file_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    model = model_of(CONFIGS[name])
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    assert write_weights(model, model.state_dict().items(), tmp_path / "ours") == torch.float32
    ours, theirs = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in ("ours", "theirs"))
    assert ours == theirs


def test_several_files_have_an_index_and_load_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CONFIGS["mixtral"])
    monkeypatch.setattr(shards, "SHARD", 6000)
    (tmp_path / "model.safetensors").write_text("of an earlier model")
    assert write_weights(model, model.state_dict().items(), tmp_path, dtype=torch.bfloat16) == torch.bfloat16
    model.config.save_pretrained(tmp_path)
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert files == [f"model-{place:05}-of-{len(files):05}.safetensors" for place in range(1, len(files) + 1)]
    index = json.loads((tmp_path / INDEX).read_text())
    held = {name: file for file in files for name in load_file(tmp_path / file)}
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == 2 * sum(weight.numel() for weight in model.parameters())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for (name, ours), expected in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, expected.bfloat16()), name


def test_never_more_than_a_files_weights_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deeper: dict[str, Any] = {**SIZES, "num_hidden_layers": 8}
    model = model_of(LlamaConfig(**deeper))
    monkeypatch.setattr(shards, "SHARD", 3000)
    alive: list[int] = []

    def given() -> Iterator[tuple[str, Tensor]]:
        for name, weight in model.state_dict().items():
            # A layer is the least that is held: its weights may have to become others.
            files = list(tmp_path.glob(".part-*"))
            alive.append(sum(weight.nbytes for _, weight in given_so_far) - sum(file.stat().st_size for file in files))
            given_so_far.append((name, weight))
            yield name, weight

    given_so_far: list[tuple[str, Tensor]] = []
    write_weights(model, given(), tmp_path)
    layer = sum(weight.nbytes for weight in model.model.layers[0].parameters())
    assert max(alive) <= 3000 + layer
    assert sum(weight.nbytes for weight in model.parameters()) > 3 * (3000 + layer)


def test_a_tied_weight_may_come_under_either_name(tmp_path: Path) -> None:
    model = model_of(CONFIGS["llama, tied"])
    weights = dict(model.named_parameters())
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    write_weights(model, weights.items(), tmp_path)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"], model.lm_head.weight)


def test_a_weight_that_does_not_come_is_told(tmp_path: Path) -> None:
    model = model_of(CONFIGS["llama"])
    weights = dict(model.state_dict())
    del weights["model.norm.weight"]
    with pytest.raises(AssertionError, match=r"no weights were given for \['model.norm.weight'\]"):
        write_weights(model, weights.items(), tmp_path)
