"""A token's step asks for nothing that a CUDA graph cannot record: no value on the host, no tensor of a size that depends on values."""

# pyright: reportPrivateUsage=false

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from core.generators import graphed
from core.generators.graphed import GraphGenerator, graph_obstacle
from core.models.fused.layers import fuse
from core.models.fused.rotations import asks_for_lengths
from core.models.logprobs import compute_head_in_fp32
from core.records import Sampling
from tests.core.generators.test_architectures import PROMPTS, tiny

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal", "lift_fresh", "repeat_interleave"}
"""What waits for the device, or copies from ordinary memory of the host."""
ROPE: dict[str, Any] = {"rope_theta": 1e4, "original_max_position_embeddings": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ROPE}},
    "phi3": {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, **ROPE}},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 8, **EXPERTS},
    "mixtral": {"num_local_experts": 4},
    "olmo2": {},
    "granite": {},
    "gemma": {"head_dim": 8},
}


class Waits(TorchDispatchMode):
    """Collects the operations that a graph cannot record."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        by_mask = name == "index" and any(place is not None and place.dtype == torch.bool for place in args[1])
        if name in WAITING or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("autocasts", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_waits_for_nothing(kind: str, autocasts: bool, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(kind, tokenizer, **KINDS[kind])
    assert not asks_for_lengths(model)
    assert waits_of(model, tokenizer, monkeypatch, autocasts=autocasts) == []


def test_a_step_that_asks_for_the_longest_row_is_known(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama", tokenizer, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    assert "_local_scalar_dense" in waits_of(model, tokenizer, monkeypatch, autocasts=False)
    assert asks_for_lengths(model)


def waits_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, *, autocasts: bool) -> list[str]:
    """What the steps of a rollout wait for."""
    fuse(model)
    compute_head_in_fp32(model)
    assert graph_obstacle(model) is None
    waits, step = Waits(), graphed._Decoder._step

    def watched(self: graphed._Decoder) -> None:
        with waits:
            step(self)

    monkeypatch.setattr(graphed._Decoder, "_step", watched)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocasts):
        GraphGenerator(model, tokenizer).generate(PROMPTS, Sampling(temperature=1.0, max_new_tokens=4, n=2, seed=1))
    return waits.found


def test_what_waits_is_found(tokenizer: PreTrainedTokenizerFast) -> None:
    with Waits() as waits:
        values = torch.arange(3)
        values[values > 0].sum().item()
    assert waits.found == ["index", "_local_scalar_dense"]
