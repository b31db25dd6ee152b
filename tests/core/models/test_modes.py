"""What is trained is what is evaluated: training mode changes no output, whatever an architecture calls its randomness."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from core.config import ModelConfig
from core.models.load import load_policy, load_reward_model, new_reward_model
from core.models.modes import require_equal_modes, switch_off_dropout
from ppo.config import Algo
from tests.fakes import only_id, tiny_llama
from tests.ppo.anything import run_any
from tests.ppo.runs import config_of, run

RATES: dict[str, dict[str, Any]] = {
    "llama": {"attention_dropout": 0.5},
    "gpt2": {"resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5},
    "opt": {"dropout": 0.5, "layerdrop": 0.5, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "bloom": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "mixtral": {"router_jitter_noise": 0.5, "num_local_experts": 4},
    "phimoe": {"router_jitter_noise": 0.5, "input_jitter_noise": 0.5, "num_local_experts": 4},
    "gpt_neox": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "modernbert-decoder": {"mlp_dropout": 0.5, "attention_dropout": 0.5, "embedding_dropout": 0.5},
}


def tiny(kind: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=only_id(tokenizer.bos_token_id),
        eos_token_id=only_id(tokenizer.eos_token_id),
        pad_token_id=only_id(tokenizer.pad_token_id),
        **RATES[kind],
    )
    return AutoModelForCausalLM.from_config(config)


def modes_agree(model: PreTrainedModel) -> bool:
    ids_BL = torch.arange(5, 25).view(2, -1)
    with torch.no_grad():
        expected = model.eval()(input_ids=ids_BL).logits
        return all(torch.allclose(model.train()(input_ids=ids_BL).logits, expected, atol=1e-5) for _ in range(4))


@pytest.mark.parametrize("kind", list(RATES))
def test_training_mode_is_evaluation_mode(kind: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = tiny(kind, tokenizer)
    assert not modes_agree(model)  # the rates have an effect
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = load_policy(ModelConfig(path=str(tmp_path)))
    require_equal_modes(loaded)
    assert not loaded.training
    assert modes_agree(loaded)


def test_rates_that_have_no_effect_stay_in_the_configuration(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    LlamaForCausalLM(tiny_llama(tokenizer, attention_dropout=0.5)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = new_reward_model(ModelConfig(path=str(tmp_path)), seed=0)
    assert model.config.attention_dropout == 0.5


def test_a_difference_that_no_rate_explains_names_the_module(policy: LlamaForCausalLM) -> None:
    class Noisy(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            return input + self.training * torch.randn_like(input)

    model = copy.deepcopy(policy)
    layer = model.get_submodule("model.layers.1.mlp")
    layer.set_submodule("act_fn", Noisy())
    switch_off_dropout(model)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM gives other values in training mode .* first in model\.layers\.1\.mlp\.act_fn"):
        require_equal_modes(model)


def test_the_check_draws_nothing_from_the_run(policy: LlamaForCausalLM) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    require_equal_modes(copy.deepcopy(policy))
    assert torch.rand(1) == expected


@pytest.mark.parametrize("algo", list(Algo))
def test_a_policy_and_its_values_are_checked_before_training(
    policy_folder: Path, tmp_path: Path, algo: Algo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: PreTrainedModel, probe: PreTrainedModel | None = None) -> None:
        raise ValueError(f"checked {type(model).__name__}")

    place = "ppo.session" if algo == Algo.ppo else "ppo.critic_free.trainer"
    monkeypatch.setattr(f"{place}.require_equal_modes", refuse)
    with pytest.raises(ValueError, match="checked LlamaForCausalLM"):
        run_any(policy_folder, algo, tmp_path)


def test_a_critic_that_starts_as_a_reward_model_is_checked_too(reward_model_folder: Path, policy_folder: Path, tmp_path: Path) -> None:
    model, _ = load_reward_model(ModelConfig(path=str(reward_model_folder)))

    def doubled(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output * (1 + module.training)

    model.get_submodule("model.layers.0.mlp").register_forward_hook(doubled)
    with pytest.raises(ValueError, match=r"LlamaForSequenceClassification gives other values in training mode .* model\.layers\.0"):
        run(config_of(policy_folder), tmp_path, reward_model=model)  # pyright: ignore[reportArgumentType]
