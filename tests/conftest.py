"""Tiny models and tokenizers, made once per run; a test that changes one copies it first."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from microworld.tokenizer import train_tokenizer
from tests.fakes import only_id, tiny_llama, with_likely_end

torch.set_num_threads(1)
_CACHE = tempfile.TemporaryDirectory(prefix="rewardloop-cache-")
os.environ["REWARDLOOP_CACHE"] = _CACHE.name
# A shell starts what it runs in the background with interrupts ignored, and tests of interrupts would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

SENTENCES = ("What is 2 plus 3?", "Name a fruit.", "A plum is a fruit.", "The sum of 2 and 3 is 5.", "Answer in one short sentence.")


FIRST = (
    "ppo/test_engines.py",
    "invariants/test_openings.py",
    "journeys/test_first_day.py",
    "core/engines/test_engine.py",
    "launch/test_study.py",
    "rmtrain/test_resume.py",
    "benchmarks/test_gpu.py",
    "faults/test_faults.py",
)
"""The files that take longest, which come first: one of two workers would else wait for the other's last file."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):  # not `keywords`, which hold the names of folders too
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none"))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 280 entries whose chat template writes BOS; pad, BOS and EOS are three tokens."""
    return train_tokenizer(SENTENCES, vocab_size=280)


@pytest.fixture(scope="session")
def policy(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random policy that is sure enough of itself for greedy decoding and ends about every twentieth token."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_llama(tokenizer)).eval()
    return with_likely_end(model, only_id(tokenizer.eos_token_id))


@pytest.fixture(scope="session")
def reward_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForSequenceClassification:
    """A random classifier of one output, with rewards of the order of 1."""
    torch.manual_seed(1)
    return LlamaForSequenceClassification(tiny_llama(tokenizer, num_labels=1)).eval()


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The policy and its tokenizer, saved; read only."""
    folder = tmp_path_factory.mktemp("models") / "policy"
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reward_model_folder(
    tmp_path_factory: pytest.TempPathFactory, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """The reward model and its tokenizer, saved; read only."""
    folder = tmp_path_factory.mktemp("models") / "reward-model"
    reward_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
