"""What a process holds in training is what the formulas say, term by term, within 15%."""

import json
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM, PreTrainedModel

from core.config import Dtype, EngineKind, ModelConfig
from core.engines import footprint
from core.engines.footprint import Way
from core.models import logprobs
from core.models.load import load_policy, new_reward_model
from core.process.precision import autocast
from core.trees.attention import encode, tree_attention
from core.trees.layout import pack_rows
from tests.core.engines.footprints import KINDS, SIZES, save_policy

NUM_TOKENS = 192


def close(number: float) -> Any:
    return pytest.approx(number, rel=0.15)


def way(kind: str) -> Way:
    return Way(kind=EngineKind(kind), processes=2, dtype=Dtype.bf16)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the first of two processes held under each engine."""
    folder = tmp_path_factory.mktemp("footprint")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*torchrun, "-m", "tests.core.engines.footprints", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def policy_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("policy")
    save_policy(folder)
    return str(folder)


def test_a_models_sizes_are_those_of_the_model(policy_path: str) -> None:
    policy, _ = load_policy(ModelConfig(path=policy_path))
    classifier, _ = new_reward_model(ModelConfig(path=policy_path), seed=0)
    assert policy.num_parameters() == SIZES.policy
    assert classifier.num_parameters() == SIZES.reward_model
    assert sum(weight.numel() for weight in classifier.get_submodule("model.layers.0").parameters()) == SIZES.layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("term", ["weights", "gradients", "optimizer"])
def test_weights_gradients_and_optimizer_of_each_engine(found: Any, kind: str, term: str) -> None:
    assert found[kind][term] == close(getattr(footprint, term)(SIZES.reward_model, way(kind)))


def test_what_fsdp2_gathers_and_the_bucket_of_zero(found: Any) -> None:
    # One layer at a time on a CPU. Beside it are the last norm and the head.
    expected = footprint.gathered(SIZES, way("fsdp2"), num_rest=2 * SIZES.hidden, at_once=1)
    assert found["fsdp2"]["gathered"] == close(expected)
    assert {found[kind]["bucket"] for kind in ("zero2", "zero3")} == {footprint.passing_gradients(SIZES, way("zero2"))}


def test_the_reference_is_held_in_the_format_of_products(found: Any) -> None:
    assert found["reference"] == close(footprint.reference(SIZES, way("fsdp2")))
    assert found["reference"] < 0.75 * footprint.weights(SIZES.policy, way("fsdp2"))


def test_the_copy_that_is_drawn_from_is_whole_and_in_the_format_of_products(found: Any) -> None:
    assert found["drawn"] == close(footprint.drawn_from(SIZES, way("fsdp2")))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [Dtype.bf16, Dtype.fp32])
def test_activations_that_a_pass_keeps(policy_path: str, dtype: Dtype, recompute: bool) -> None:
    model, _ = new_reward_model(ModelConfig(path=policy_path), seed=0)
    if recompute:
        model.activation_checkpointing_enable()
    model.train()
    kept = saved_bytes(model, dtype)
    alone = Way(kind=EngineKind.single, processes=1, dtype=dtype)
    expected = footprint.activations(SIZES, NUM_TOKENS, alone, recompute=recompute)
    if recompute:  # what a layer keeps when it is run again is not there yet
        fewer = replace(SIZES, num_layers=SIZES.num_layers - 1)
        expected -= footprint.activations(SIZES, NUM_TOKENS, alone, recompute=False)
        expected += footprint.activations(fewer, NUM_TOKENS, alone, recompute=False)
    assert kept == close(expected)


def saved_bytes(model: PreTrainedModel, dtype: Dtype) -> int:
    """The bytes that a forward pass saves for the backward pass, but for weights and copies of them."""
    shapes = {weight.shape for weight in model.parameters()} | {weight.T.shape for weight in model.parameters() if weight.dim() == 2}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.shape not in shapes and tensor.numel() >= NUM_TOKENS:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    stream = pack_rows([torch.arange(NUM_TOKENS).numpy()])
    with tree_attention(model), autocast(torch.device("cpu"), dtype), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encode(model, stream)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def test_keys_and_values_of_a_generation(policy_path: str) -> None:
    policy = LlamaForCausalLM.from_pretrained(policy_path, dtype=torch.bfloat16)
    cache: Any = policy(input_ids=torch.ones(2, 24, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == close(footprint.kv_cache(SIZES, 2 * 24))


class Live(TorchDispatchMode):
    """Counts the bytes of tensors of at least `size` numbers that are alive at once, and keeps the most."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.now, self.most = size, 0, 0
        self._known = weakref.WeakSet[Any]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor) and tensor.numel() >= self.size and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage.nbytes())
        return made

    def _gone(self, num_bytes: int) -> None:
        self.now -= num_bytes


def test_logits_of_a_chunk_in_a_pass_and_its_backward_pass(policy_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert footprint.LOGITS == logprobs.CHUNK
    for module, name in ((footprint, "LOGITS"), (logprobs, "CHUNK")):
        monkeypatch.setattr(module, name, 128 * SIZES.vocabulary)
    policy, _ = load_policy(ModelConfig(path=policy_path))
    hidden_NH = torch.randn(512, SIZES.hidden, requires_grad=True)
    with Live(128 * SIZES.vocabulary) as live:  # more numbers than the hidden states
        found_N, _ = logprobs.head_logprobs(policy, hidden_NH, torch.arange(512) % SIZES.vocabulary)
        found_N.sum().backward()
    assert live.most == close(footprint.logits(SIZES, 512))


def test_the_sizes_of_llama_3_are_its_own() -> None:
    # https://huggingface.co/meta-llama/Llama-3.1-8B and -70B: 8.03 and 70.6 billion weights.
    assert footprint.LLAMA_8B.policy == pytest.approx(8.03e9, rel=1e-3)
    assert footprint.LLAMA_70B.policy == pytest.approx(70.55e9, rel=1e-3)
