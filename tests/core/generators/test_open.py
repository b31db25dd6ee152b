"""A configuration opens the engine it names, or says what is missing before anything is drawn."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.config import Dtype, RolloutConfig, RolloutKind, WeightSync
from core.generators.continuous import ContinuousGenerator
from core.generators.local import TransformersGenerator
from core.generators.open import open_generator, weight_transfer
from core.generators.vllm import VLLMGenerator
from core.records import RolloutEngine
from core.vllm.weights import FolderTransfer
from tests.core.vllm.fake_server import Standin, serving


def test_an_engine_in_this_process_has_no_weights_of_its_own(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    plain = open_generator(RolloutConfig(batch_size=7), policy, tokenizer)
    assert isinstance(plain, TransformersGenerator)
    assert plain.batch_size == 7
    continuous = open_generator(RolloutConfig(kind=RolloutKind.continuous, memory=0.25), policy, tokenizer)
    assert isinstance(continuous, ContinuousGenerator)
    assert continuous.memory == 0.25
    assert not isinstance(plain, RolloutEngine)
    assert not isinstance(continuous, RolloutEngine)


def test_a_server_is_an_engine_that_follows_the_weights(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Standin(policy, tokenizer)) as server:
        config = RolloutConfig(kind=RolloutKind.vllm, url=server.url, folder=str(tmp_path), parallel=3, dtype=Dtype.fp32)
        engine = open_generator(config, policy, tokenizer)
        assert isinstance(engine, RolloutEngine)
        assert isinstance(engine, VLLMGenerator)
        assert (engine.models, engine.parallel) == (["org/policy"], 3)
        assert isinstance(engine.transfer, FolderTransfer)
        assert (engine.transfer.folder, engine.transfer.dtype) == (tmp_path, torch.float32)
        for connection in engine.servers:
            connection.close()


def test_nccl_on_a_cpu_is_refused() -> None:
    config = RolloutConfig(kind=RolloutKind.vllm, url="http://localhost:8000", sync=WeightSync.nccl)
    with pytest.raises(ValueError, match=r"rollout\.sync=nccl needs the policy on a CUDA device"):
        weight_transfer(config, torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"batch_size": 0}, r"rollout\.batch_size is 0"),
        ({"parallel": 0}, r"rollout\.parallel is 0"),
        ({"timeout_s": 0.0}, r"rollout\.timeout_s is 0\.0"),
        ({"memory": 0.0}, r"rollout\.memory is 0\.0"),
        ({"memory": 1.5}, r"rollout\.memory is 1\.5"),
        ({"kind": RolloutKind.vllm}, r"rollout\.url is empty"),
        ({"url": "http://a", "urls": ["http://b"]}, r"rollout\.url=http://a and rollout\.urls are both given"),
        ({"urls": ["http://b", "http://b"]}, "names a server twice"),
        ({"kind": RolloutKind.vllm, "url": "http://localhost:8000"}, r"rollout\.folder is empty"),
    ],
)
def test_what_cannot_run_is_refused_by_its_key(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RolloutConfig(**options)
