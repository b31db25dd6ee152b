"""A step of a rollout by all kernels together draws what transformers' cache draws, on a GPU or in Triton's interpreter."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from core.generators import answers, filled, graphed
from core.generators.graphed import GraphGenerator
from core.generators.local import TransformersGenerator
from core.models.fused.layers import fuse
from core.models.logprobs import compute_head_in_fp32
from core.records import Sampling
from tests.core.generators.test_graphed import PROMPTS
from tests.kernels import DEVICE, INTERPRETED, needs_kernels

LAYERS, NEW = 3, 7
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


def small(kind: str, vocabulary: int) -> PreTrainedModel:
    """In fp16: the interpreter does not multiply in bf16."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, num_hidden_layers=LAYERS, **SIZES)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    compute_head_in_fp32(model)
    nn.Module.to(model, DEVICE, torch.float16)  # in place
    return model


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter tensors say that they lie on a GPU, so that all roads are taken that are taken there."""
    monkeypatch.setattr(filled, "LEAST_PROGRAMS", 1)
    if not INTERPRETED:
        return
    multiply = torch.mm

    def mm(a: Tensor, b: Tensor, **options: Any) -> Tensor:
        return multiply(a.float(), b.float()) if options.pop("out_dtype", None) == torch.float32 else multiply(a, b, **options)

    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(graphed, "to_host", lambda tensor: lambda: tensor)


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each kernel's function is called from here on."""
    from core.generators import kernels
    from core.models.fused import kernels as fused

    counts: dict[str, int] = {}

    def counting(module: Any, name: str) -> None:
        own = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            turning = name == "attend_rows" and arguments[-1] is not None
            counts[name + " turning" * turning] = counts.get(name + " turning" * turning, 0) + 1
            return own(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    for name in ("attend_rows", "draw_next"):
        counting(kernels, name)
    for name in ("rotated", "rotated_pair", "added_and_normed", "gated_silu", "gated_silu_by_row"):
        counting(fused, name)
    return counts


@needs_kernels
@pytest.mark.parametrize("kind", ["llama", "qwen3", "hunyuan_v1_dense"])
def test_all_kernels_together_draw_what_transformers_cache_draws(
    kind: str, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    model = small(kind, len(tokenizer))
    sampling = Sampling(temperature=1.0, max_new_tokens=NEW, n=2, seed=4)
    expected = TransformersGenerator(model, tokenizer).generate(PROMPTS, sampling)
    request.getfixturevalue("as_on_a_gpu")
    fuse(model)
    generator = GraphGenerator(model, tokenizer)
    assert generator.generate(PROMPTS, sampling), "kernels are tried where they are first used"
    counts = counted(monkeypatch)
    ours = generator.generate(PROMPTS, sampling)
    same = [a.token_ids == b.token_ids for row, own in zip(expected, ours, strict=True) for a, b in zip(row, own, strict=True)]
    assert sum(same) >= len(same) - 1, "of eight answers one may have met a boundary that fp16 rounds"
    if generator._decoder is not None and generator._decoder.graph is not None:  # pyright: ignore[reportPrivateUsage]
        return  # nothing is launched from here
    steps = NEW - 1
    assert counts["draw_next"] == steps + 1
    assert counts["added_and_normed"] == LAYERS + steps * (2 * LAYERS - 1) + (LAYERS - 1)
    # HunYuan norms queries and keys after their rotation, which attention cannot do for it.
    turned = {"attend_rows": steps * LAYERS} if kind == "hunyuan_v1_dense" else {"attend_rows turning": steps * LAYERS}
    assert {name: count for name, count in counts.items() if name.startswith("attend_rows")} == turned
    assert counts["rotated_pair"] == LAYERS * (1 + steps * (kind == "hunyuan_v1_dense"))


@needs_kernels
def test_what_a_kernel_draws_is_known_to_the_trial() -> None:
    assert answers._error(DEVICE) < 2e-5  # pyright: ignore[reportPrivateUsage]


@needs_kernels
@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize(("heads", "key_heads", "channels"), [(8, 2, 16), (6, 6, 32), (9, 3, 64)])
def test_the_trial_of_attention_passes(heads: int, key_heads: int, channels: int, turns: bool) -> None:
    assert filled._error(DEVICE, torch.float16, heads, key_heads, channels, turns=turns) < 2e-3  # pyright: ignore[reportPrivateUsage]
