"""Copies of a policy in the format of autocast, to sample from: autocast itself would cast every weight anew for every token."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from core.models.logprobs import LanguageHead


class HalfCopy:
    """A copy of a model in fp32 whose matrices are held in another format; all other weights are the model's own.

    It is meant for autocast, under which it computes what the model does. With `whole` all weights are held in that format, so that it
    also computes in it without autocast. The head stays the model's own either way if it computes in fp32 by itself.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, *, whole: bool = False) -> None:
        shared: dict[int, Any] = {id(weight): weight for weight in model.parameters()}
        self.model = copy.deepcopy(model, shared).eval()
        self._targets: list[Tensor] = []
        self._sources: list[Tensor] = []
        layers = [layer for layer in self.model.modules() if whole or isinstance(layer, (nn.Linear, Conv1D))]
        for layer in [layer for layer in layers if not isinstance(layer, LanguageHead)]:
            for name, weight in list(layer.named_parameters(recurse=False)):
                if weight.is_floating_point():
                    cast = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
                    layer.register_parameter(name, cast)
                    self._targets.append(cast)
                    self._sources.append(weight.detach())

    def refresh(self) -> None:
        """Takes over the model's current weights, in place."""
        for target, source in zip(self._targets, self._sources, strict=True):
            target.copy_(source)


def asked_format(model: PreTrainedModel) -> torch.dtype | None:
    """The format to sample in if it is not that of the weights: that of autocast, for a model in fp32; None otherwise."""
    kind = model.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) and model.dtype == torch.float32 else None


def to_sample_from(model: PreTrainedModel, *, whole: bool = False) -> PreTrainedModel:
    """The model, or under autocast a `HalfCopy` of it with its current weights."""
    dtype = asked_format(model)
    return model if dtype is None else HalfCopy(model, dtype, whole=whole).model
