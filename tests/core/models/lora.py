"""Adapters with random weights, and what a model gives with them, for the tests of LoRA."""

from pathlib import Path

import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, TaskType, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from core.config import Dtype, LoraConfig, ModelConfig

IDS = torch.tensor([[1, 7, 8, 9, 40], [1, 30, 20, 10, 5], [1, 3, 3, 90, 77]])
TOLERANCE = {"abs": 1e-5, "rel": 0}
LORA = LoraConfig(rank=2, alpha=8)
GROUPS = [[[1, 7, 8, 9, 40, 41, 42, 43, 44, 45, 5], [1, 7, 8, 9, 40, 41, 42, 43, 44, 45, 9, 9]], [[1, 30, 20], [1, 30, 77, 12]]]


def config(path: Path, dtype: Dtype = Dtype.fp32) -> ModelConfig:
    return ModelConfig(path=str(path), dtype=dtype)


def rewards(model: torch.nn.Module) -> list[float]:
    with torch.no_grad():
        return model(IDS).logits[:, 0].tolist()


def logits(model: torch.nn.Module, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return model(ids).logits


def trained(
    model: PreTrainedModel, task: TaskType | None, whole: list[str] | None = None, targets: tuple[str, ...] = ("q_proj", "v_proj")
) -> PeftModel:
    """A LoRA adapter on `model`, with all that it trains drawn at random, as far from its start as training would bring it.

    `whole` names modules that are trained and saved whole.
    """
    wrapped = get_peft_model(model, PeftConfig(task_type=task, r=2, target_modules=list(targets), modules_to_save=whole))
    assert isinstance(wrapped, PeftModel)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, 0.5, generator=draw)
    return wrapped.eval()


def stirred(model: PreTrainedModel) -> PreTrainedModel:
    """The model with A, B and the head drawn at random: at a fresh B of zeros A would have no gradient."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, 0.3, generator=draw)
    return model


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    """The gradients by name, which are taken away from the model."""
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def pair_loss(rewards_R: Tensor) -> Tensor:
    chosen_B, rejected_B = rewards_R.view(-1, 2).unbind(1)
    return -torch.nn.functional.logsigmoid(chosen_B - rejected_B).mean()


def assert_close_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], relative: float) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= relative * expected[name].norm(), name
