"""Fused layers compute what the layers of the architecture do, and an architecture that they do not fit keeps its own."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from core.models.fused.layers import fuse, fuse_layers

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(0))


def tiny(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **SIZES | options)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape)  # norms begin at one, which hides how their weight is used
    return model


def outputs(model: nn.Module) -> list[Tensor]:
    """The hidden states and the gradients of all weights."""
    model.zero_grad()
    hidden_BLH = model(input_ids=IDS).last_hidden_state
    (hidden_BLH * torch.linspace(-1, 1, hidden_BLH.numel()).view(hidden_BLH.shape)).sum().backward()
    return [hidden_BLH.detach(), *(weight.grad.clone() for weight in model.parameters() if weight.grad is not None)]


def kinds(model: nn.Module) -> set[type]:
    return {type(module) for module in model.modules()}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "olmo2"])
def test_values_gradients_and_names_stay_and_norms_mlps_and_attention_change(kind: str) -> None:
    model = tiny(kind)
    before, names, types = outputs(model), list(model.state_dict()), kinds(model)
    fuse(model)
    changed = sorted(kind.__name__.lower().removeprefix(model.config.model_type) for kind in kinds(model) - types)
    # OLMo 2 rotates in its own way: it casts the result back.
    assert changed == (["mlp", "rmsnorm"] if kind == "olmo2" else ["attention", "decoderlayer", "mlp", "rmsnorm"])
    assert list(model.state_dict()) == names
    for ours, own in zip(outputs(model), before, strict=True):
        torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-4)


def test_a_norm_that_counts_its_weight_from_one_and_a_gate_of_gelu_stay_as_they_are() -> None:
    model = tiny("gemma", head_dim=8)
    types = kinds(model)
    fuse(model)
    assert [kind.__name__ for kind in kinds(model) - types] == ["GemmaAttention"]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "opt", "mamba"])
def test_architectures_without_these_layers_stay_as_they_are(kind: str) -> None:
    extra: dict[str, Any] = {"opt": {"word_embed_proj_dim": 32, "ffn_dim": 48}, "gpt2": {"n_head": 4}}.get(kind, {})
    model = tiny(kind, **extra)
    before, names = outputs(model), list(model.state_dict())
    fuse(model)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(outputs(model)[0], before[0], atol=1e-5, rtol=1e-4)


def test_a_rotation_of_another_kind_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_pairs(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(x * cos[:, None] + torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2) * sin[:, None] for x in (q, k))  # type: ignore[return-value]

    model = tiny("llama")
    attention = next(module for module in model.modules() if type(module).__name__ == "LlamaAttention")
    monkeypatch.setitem(type(attention).forward.__globals__, "apply_rotary_pos_emb", by_pairs)
    kind = type(attention)
    fuse(model)
    assert type(attention) is kind


def test_a_copy_of_a_fused_model_has_weights_of_its_own() -> None:
    model = tiny("llama")
    fuse(model)
    before, copied = outputs(model), copy.deepcopy(model)
    with torch.no_grad():
        for weight in copied.parameters():
            weight += 1
    assert outputs(model)[0].equal(before[0])
    assert not outputs(copied)[0].allclose(before[0])


def test_on_a_cpu_nothing_changes() -> None:
    model: Any = tiny("llama")
    types = kinds(model)
    fuse_layers(model)
    assert kinds(model) == types


@pytest.mark.gpu
@pytest.mark.parametrize("halves", [False, True], ids=["fp32", "bf16 under autocast"])
def test_a_norm_there_gives_values_and_gradients_of_the_plain_one(halves: bool) -> None:
    from core.models.fused.kernels import added_and_normed, normed

    dtype = torch.bfloat16 if halves else torch.float32
    draw = torch.Generator().manual_seed(0)
    x, y, weight = (torch.randn(shape, generator=draw).cuda() for shape in ((2, 7, 96), (2, 7, 96), (96,)))
    leaves = [x.requires_grad_(), y.to(dtype).requires_grad_(), weight.requires_grad_()]
    whole, after = added_and_normed(leaves[0], leaves[1], leaves[2], 1e-5, dtype)
    ours = [whole, after, normed(leaves[0], leaves[2], 1e-5, dtype)]
    plain = [leaves[0] + leaves[1], *(torch.nn.functional.rms_norm(a, (96,), leaves[2], 1e-5) for a in (leaves[0] + leaves[1], leaves[0]))]
    shares = [torch.randn(x.shape, generator=draw).cuda() for _ in ours]

    def gradients(outs: list[Tensor]) -> list[Tensor]:
        total = torch.stack([(out.float() * share).sum() for out, share in zip(outs, shares, strict=True)]).sum()
        return list(torch.autograd.grad(total, leaves))

    assert [out.dtype for out in ours] == [torch.float32, dtype, dtype]
    for own, expected in zip([*ours, *gradients(ours)], [*plain, *gradients(plain)], strict=True):
        assert (own.float() - expected.float()).norm() <= (0.01 if halves else 1e-5) * expected.float().norm()
