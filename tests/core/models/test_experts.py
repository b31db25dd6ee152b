"""Experts of a mixture under autocast: in its format, with the values and gradients of one expert after the other."""

from collections.abc import Generator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.integrations import moe

from core.models.fused.experts import let_autocast_reach_experts

KINDS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 8},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
}
IDS = torch.arange(48).view(2, 24) % 31


@pytest.fixture(autouse=True)
def reached() -> Generator[None]:
    let_autocast_reach_experts()
    yield
    moe.ALL_EXPERTS_FUNCTIONS.register("grouped_mm", moe.grouped_mm_experts_forward)


@pytest.fixture
def formats(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, torch.dtype]]:
    """The formats of what is multiplied in groups: activations and weights."""
    found: list[tuple[torch.dtype, torch.dtype]] = []
    real = torch.nn.functional.grouped_mm

    def noted(input: Tensor, weight: Tensor, **options: Any) -> Tensor:
        found.append((input.dtype, weight.dtype))
        return real(input, weight, **options)

    monkeypatch.setattr(torch.nn.functional, "grouped_mm", noted)
    return found


def tiny(kind: str, experts: str) -> PreTrainedModel:
    sizes = {"vocab_size": 31, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    own = {"num_key_value_heads": 2, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **sizes, **own, **KINDS[kind])
    return AutoModelForCausalLM.from_config(config, experts_implementation=experts).eval()


def trained(model: PreTrainedModel, *, bf16: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits, and the gradients of the weights of experts for a loss of them."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(input_ids=IDS, use_cache=False).logits
    logits.float().square().mean().backward()
    grads = {name: weight.grad for name, weight in model.named_parameters() if "experts" in name and weight.grad is not None}
    return logits.detach().float(), grads


@pytest.mark.parametrize("kind", KINDS)
def test_experts_multiply_in_the_format_of_autocast(kind: str, formats: list[tuple[torch.dtype, torch.dtype]]) -> None:
    model = tiny(kind, "grouped_mm")
    logits, grads = trained(model, bf16=True)
    assert set(formats) == {(torch.bfloat16, torch.bfloat16)}
    assert len(formats) == 4  # two products in each of two layers
    assert grads
    assert {grad.dtype for grad in grads.values()} == {torch.float32}
    exact, _ = trained(tiny(kind, "grouped_mm"), bf16=False)
    assert set(formats[4:]) == {(torch.float32, torch.float32)}  # nobody asked for another format
    assert not torch.equal(logits, exact)


@pytest.mark.parametrize("kind", KINDS)
def test_they_give_what_transformers_gives_one_expert_after_the_other(kind: str) -> None:
    grouped, grads = trained(tiny(kind, "grouped_mm"), bf16=True)
    eager, eager_grads = trained(tiny(kind, "eager"), bf16=True)
    assert (grouped - eager).abs().max() < 0.02 * eager.abs().max()
    for name, grad in grads.items():
        assert (grad - eager_grads[name]).norm() < 0.05 * eager_grads[name].norm(), name
