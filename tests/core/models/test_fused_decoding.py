"""What is fused further while tokens are sampled: the values of the layers stay, and so does all that belongs to them."""

# pyright: reportPrivateUsage=false

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from core.models.fused import decoding, layers
from core.models.fused.decoding import carried_sums, gates_by_row, rotates_pair
from core.models.fused.layers import fuse
from tests.core.models.test_fused import IDS, tiny
from tests.kernels import DEVICE, needs_kernels


@torch.no_grad()
def hidden(model: nn.Module) -> Tensor:
    return model(input_ids=IDS).last_hidden_state


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_each_sum_is_taken_with_the_norm_after_it_and_values_stay(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(kind, num_hidden_layers=3)
    fuse(model)
    before, names, sums = hidden(model), list(model.state_dict()), []
    added = layers._added_and_normed
    monkeypatch.setattr(layers, "_added_and_normed", lambda norm, *rest: (sums.append(norm), added(norm, *rest))[1])
    with carried_sums(model):
        torch.testing.assert_close(hidden(model), before, atol=1e-6, rtol=1e-6)
        assert list(model.state_dict()) == names
    first, *rest = [(layer.input_layernorm, layer.post_attention_layernorm) for layer in model.layers]
    assert sums == [first[1], *[norm for pair in rest for norm in pair]]
    assert not [layer for layer in model.layers if {"following", "carried"} & vars(layer).keys()]
    sums.clear()
    assert hidden(model).equal(before)
    assert sums == [layer.post_attention_layernorm for layer in model.layers]


def test_a_layer_whose_input_is_changed_on_the_way_takes_its_own_norm() -> None:
    model = tiny("llama")
    fuse(model)
    model.layers[0].register_forward_hook(lambda module, inputs, output: output * 2)
    before = hidden(model)
    with carried_sums(model):
        torch.testing.assert_close(hidden(model), before, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "olmo2", "gemma"])
def test_other_layers_are_left_alone(kind: str) -> None:
    options: dict[str, Any] = {"gpt2": {"n_head": 4}, "gemma": {"head_dim": 8}}.get(kind, {})
    model = tiny(kind, **options)
    fuse(model)
    before = hidden(model)
    with carried_sums(model):
        assert hidden(model).equal(before)


def test_training_and_long_streams_keep_the_kernels_that_they_have() -> None:
    q, k = torch.zeros(1, 4, decoding.FEW + 1, 32), torch.zeros(1, 2, decoding.FEW + 1, 32)
    gate, up = torch.zeros(3, 20).split(10, -1)
    with torch.no_grad():
        assert not rotates_pair(q, k)
        assert not gates_by_row(gate.contiguous(), up.contiguous())
    assert not rotates_pair(q[:, :, :5], k[:, :, :5])
    assert not gates_by_row(gate, up)


def test_a_kernel_that_fails_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(device: torch.device) -> float:
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(decoding, "_rotation_error", fails)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert not rotates_pair(torch.zeros(1, 4, 5, 32), torch.zeros(1, 2, 5, 32))
    decoding._works.cache_clear()
    assert caplog.messages == ["rotations of queries and keys take two kernels, slower: the kernel for one fails (no such instruction)"]


@needs_kernels
@pytest.mark.parametrize(("heads", "key_heads", "channels"), [(32, 8, 64), (9, 3, 64), (12, 12, 32), (4, 1, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_there_queries_and_keys_are_rotated_as_one_by_one(heads: int, key_heads: int, channels: int, dtype: torch.dtype) -> None:
    from core.models.fused.kernels import rotated, rotated_pair

    draw = torch.Generator().manual_seed(0)
    both = torch.randn(2, 7, heads + key_heads, channels, generator=draw).to(DEVICE, dtype).transpose(1, 2)
    q, k = both[:, :heads], both[:, heads:]
    for batch in (1, 2):
        cos, sin = (torch.randn(batch, 7, channels, generator=draw).to(DEVICE, dtype) for _ in range(2))
        for ours, single in zip(rotated_pair(q, k, cos, sin), (rotated(q, cos, sin), rotated(k, cos, sin)), strict=True):
            assert (ours.dtype, ours.stride()) == (single.dtype, single.stride())
            torch.testing.assert_close(ours, single, atol=1e-6, rtol=0)


@needs_kernels
@pytest.mark.parametrize("size", [96, 1024, 2500])
def test_there_a_gate_is_read_out_of_a_wider_product(size: int) -> None:
    from core.models.fused.kernels import gated_silu_by_row

    gate, up = torch.randn(1, 5, 2 * size, generator=torch.Generator().manual_seed(0)).to(DEVICE).split(size, -1)
    torch.testing.assert_close(gated_silu_by_row(gate, up), silu(gate) * up, atol=1e-6, rtol=1e-5)


@needs_kernels
def test_there_both_pass_their_trials() -> None:
    assert max(decoding._rotation_error(DEVICE), decoding._gate_error(DEVICE)) < 1e-6
