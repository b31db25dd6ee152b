"""Saved LoRA adapters, with what they gave before they were saved."""

from pathlib import Path

import pytest
from peft import TaskType
from torch import Tensor
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM

from tests.core.models.lora import logits, rewards, trained


@pytest.fixture
def lora_reward_model(tmp_path: Path, policy_folder: Path) -> tuple[Path, list[float]]:
    """The folder of an adapter trained on the policy as a classifier, and its rewards before it was saved."""
    base = AutoModelForSequenceClassification.from_pretrained(policy_folder, num_labels=1)
    wrapped = trained(base, TaskType.SEQ_CLS)
    wrapped.save_pretrained(str(tmp_path / "lora"))
    return tmp_path / "lora", rewards(wrapped)


@pytest.fixture
def lora_policy(tmp_path: Path, policy_folder: Path) -> tuple[Path, Tensor]:
    """The folder of an adapter trained on the policy, and its logits before it was saved."""
    wrapped = trained(LlamaForCausalLM.from_pretrained(policy_folder), TaskType.CAUSAL_LM)
    wrapped.save_pretrained(str(tmp_path / "lora"))
    return tmp_path / "lora", logits(wrapped)
