"""While a model is sampled, layers that read the same input are one product; values stay, and so do weights that others know."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from core.config import Dtype, LoraConfig
from core.generators import merged
from core.generators.graphed import GraphGenerator
from core.generators.half import HalfCopy
from core.generators.merged import MergedProducts
from core.models.adapters import inject_adapter
from core.models.fused.layers import fuse
from core.models.locate import ModelLocation
from core.process.precision import autocast
from core.records import Sampling, user

LAYERS = 2
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(0))


def tiny(kind: str = "llama", **options: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | options)).eval().requires_grad_(False)
    for weight in model.parameters():
        weight += 0.1 * torch.randn(weight.shape)  # biases begin at zero, and norms at one
    return model


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.linear.default)
        return func(*args, **(kwargs or {}))


def logits(model: Any) -> tuple[Tensor, int]:
    """Of a batch, and how many products they took."""
    with torch.no_grad(), Products() as products:
        return model(input_ids=IDS, use_cache=False).logits, products.seen


def held(model: nn.Module) -> int:
    return sum({weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in model.parameters()}.values())


@pytest.mark.parametrize("own", [False, True], ids=["copied", "its own"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "olmo2", "gemma3_text", "opt"])
def test_values_stay_with_fewer_products(kind: str, own: bool) -> None:
    model = tiny(kind, **({"word_embed_proj_dim": 32, "ffn_dim": 48} if kind == "opt" else {}))
    fuse(model)
    (before, products), names, size = logits(model), list(model.state_dict()), held(model)
    products_of = MergedProducts(model, lambda weight: own)
    with products_of.in_place():
        after, fewer = logits(model)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert products - fewer == LAYERS * (2 + (own and kind != "opt"))  # OPT's MLP has no gate
    assert list(model.state_dict()) == names
    assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} == {nn.Linear}
    assert not [module for module in model.modules() if "group" in vars(module)]
    assert held(model) == size, "the merged weights are the layers' own, or none of theirs"


def test_merged_weights_follow_the_layers_which_stay_where_they_are() -> None:
    model = tiny()
    places = [weight.data_ptr() for weight in model.parameters()]
    products = MergedProducts(model)
    for weight in model.parameters():
        weight += 0.1
    expected = logits(model)[0]
    with products.in_place():
        assert not logits(model)[0].allclose(expected), "stale until they are renewed"
    products.refresh()
    with products.in_place():
        torch.testing.assert_close(logits(model)[0], expected, atol=1e-5, rtol=1e-5)
    assert [weight.data_ptr() for weight in model.parameters()] == places
    assert products.serves(model)
    model.model.layers[1].self_attn.k_proj.weight.data = model.model.layers[1].self_attn.k_proj.weight.clone()
    assert not products.serves(model)


def test_a_copy_in_bf16_takes_no_more_memory_and_takes_over_new_weights() -> None:
    model = tiny()
    half = HalfCopy(model, torch.bfloat16)
    size = held(half.model)
    products = MergedProducts(half.model, half.owns)
    assert (held(half.model), products.num_bytes) == (size, 0)
    model.model.layers[0].self_attn.v_proj.weight.fill_(0.5)
    half.refresh()
    products.refresh()
    with products.in_place():
        layer: Any = half.model.get_submodule("model.layers.0.self_attn")
        assert (layer.v_proj.weight == 0.5).all()
        assert torch.allclose(layer.q_proj(torch.ones(1, 32).bfloat16()), layer.q_proj.weight.sum(-1), atol=0.05)
        assert (layer.v_proj(torch.ones(1, 32).bfloat16()) == 16).all()


def test_an_input_that_only_one_layer_gets_gives_its_own_product() -> None:
    model = tiny()
    attention = model.model.layers[0].self_attn
    first, second = torch.randn(2, 3, 32)
    expected = [layer(x) for layer, x in ((attention.q_proj, first), (attention.k_proj, second), (attention.v_proj, first))]
    with MergedProducts(model).in_place():
        found = [layer(x) for layer, x in ((attention.q_proj, first), (attention.k_proj, second), (attention.v_proj, first))]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_layers_with_adapters_hooks_and_other_formats_stay_as_they_are() -> None:
    model = tiny()
    first, second = model.model.layers
    first.self_attn.k_proj.register_forward_hook(lambda *_: None)
    second.self_attn.v_proj.to(torch.bfloat16)
    assert MergedProducts(model, lambda weight: True).places == MergedProducts(model).places[:0] + tuple(
        layer.mlp.gate_proj.weight.data_ptr() for layer in (first, second)
    )
    adapted = tiny()
    inject_adapter(adapted, LoraConfig(rank=2, targets=["v_proj", "up_proj"]), base=ModelLocation(path="base"), draw=torch.Generator())
    assert MergedProducts(adapted, lambda weight: True).places == ()


def test_weights_are_not_copied_into_memory_that_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    size = LAYERS * (32 + 2 * 16) * 32 * 4
    assert MergedProducts(model).num_bytes == size
    monkeypatch.setattr(merged, "free_bytes", lambda device: size / merged.MOST - 1)
    assert MergedProducts(model).places == ()


def test_a_policy_that_is_trained_keeps_plain_layers_between_its_rollouts(policy: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    model = copy.deepcopy(policy)
    engine, prompts = GraphGenerator(model, tokenizer), [user("Name a fruit."), user("2?")]
    places = [weight.data_ptr() for weight in model.parameters()]
    for dtype in (Dtype.fp32, Dtype.bf16, Dtype.fp32):
        with autocast(torch.device("cpu"), dtype):
            first = engine.generate(prompts, Sampling(max_new_tokens=4, seed=1))
            assert engine.generate(prompts, Sampling(max_new_tokens=4, seed=1)) == first
        assert engine._merged is not None  # pyright: ignore[reportPrivateUsage]
        assert (engine._merged.num_bytes == 0) == (dtype == Dtype.bf16)  # pyright: ignore[reportPrivateUsage]
    assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} <= {nn.Linear}
    assert [weight.data_ptr() for weight in model.parameters()] == places
