"""Copies of a policy in the format of autocast, to sample from: autocast itself would cast every weight anew for every token."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from core.models.logprobs import LanguageHead
from core.models.mapped import sharing_copy


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
        for layer, name, weight in list(_weights_of_products(self.model, whole=whole)):
            if weight.dtype != dtype:
                cast = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
                layer.register_parameter(name, cast)
                self._targets.append(cast)
                self._sources.append(weight)

    def owns(self, weight: Tensor) -> bool:
        """Whether the weight is the copy's own, and not the model's."""
        return any(weight is target for target in self._targets)

    @property
    def num_bytes(self) -> int:
        """Of the weights that the model does not hold as well."""
        return sum(target.nbytes for target in self._targets)

    def refresh(self) -> None:
        """Takes over the model's current weights, in place."""
        for target, source in zip(self._targets, self._sources, strict=True):
            target.copy_(source.detach())  # of where the weight lies now: moving a model gives its weights other memory


class WholeCopy:
    """A whole copy of a policy whose weights are split over processes, to sample from. It takes memory only from `refresh` to `release`.

    Its matrices are held in `dtype`, that of autocast, and all other weights in fp32, so that under autocast it computes what the policy
    does. With None all weights are held in the formats that they have in `model`, which gives the shapes and is not copied.
    """

    def __init__(self, model: PreTrainedModel, *, dtype: torch.dtype | None, device: torch.device) -> None:
        self.model = sharing_copy(model).requires_grad_(False).eval()
        embedded = {id(weight) for part in self.model.modules() if isinstance(part, nn.Embedding) for weight in part.parameters()}
        matrices = {id(weight) for _, _, weight in _weights_of_products(self.model)} - embedded
        for weight in self.model.parameters():
            held = torch.float32 if dtype is None or id(weight) not in matrices else dtype
            if dtype is None or not weight.is_floating_point():
                held = weight.dtype
            weight.data = torch.empty(weight.shape, dtype=held, device=device)
            weight.untyped_storage().resize_(0)
        nn.Module.to(self.model, device)  # the buffers
        self.formats = {name: weight.dtype for name, weight in self.model.named_parameters(remove_duplicate=False)}
        """The format of each weight by name, to gather it in."""

    @torch.no_grad()
    def refresh(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Takes over the policy's current weights, given one at a time under their names; one that is tied may come under either."""
        for weight in self.model.parameters():
            weight.untyped_storage().resize_(weight.numel() * weight.element_size())
        own, filled = self.model.state_dict(keep_vars=True), set[int]()
        for name, weight in weights:
            own[name].copy_(weight)
            filled.add(id(own[name]))
        left = [name for name, weight in self.model.named_parameters() if id(weight) not in filled]
        assert not left, f"{left[:3]} would be sampled with whatever the memory holds"

    def release(self) -> None:
        """Gives its memory up until the next `refresh`."""
        for weight in self.model.parameters():
            weight.untyped_storage().resize_(0)


def asked_format(model: PreTrainedModel, *, whole: bool = False) -> torch.dtype | None:
    """The format to sample in if the weights are not in it: that of autocast, for a model in fp32; None otherwise.

    With `whole` those count too that autocast leaves alone.
    """
    kind = model.device.type
    if not torch.is_autocast_enabled(kind) or model.dtype != torch.float32:
        return None
    dtype = torch.get_autocast_dtype(kind)
    return dtype if any(weight.dtype != dtype for _, _, weight in _weights_of_products(model, whole=whole)) else None


def product_format(model: PreTrainedModel) -> torch.dtype:
    """The format that a model's products need: narrower than that of its other weights in a copy that is held for autocast."""
    narrower = {weight.dtype for _, _, weight in _weights_of_products(model)} - {torch.float32}
    return narrower.pop() if narrower and model.dtype == torch.float32 else model.dtype


def to_sample_from(model: PreTrainedModel, *, whole: bool = False) -> PreTrainedModel:
    """The model, or under autocast a `HalfCopy` of it with its current weights."""
    dtype = asked_format(model, whole=whole)
    return model if dtype is None else HalfCopy(model, dtype, whole=whole).model


def _weights_of_products(model: nn.Module, *, whole: bool = False) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """The layer, name and weight of everything whose products are in the format of autocast; with `whole` of all but the head."""
    for layer in model.modules():
        is_product = isinstance(layer, (nn.Linear, Conv1D))
        if not isinstance(layer, LanguageHead):
            for name, weight in layer.named_parameters(recurse=False):
                if weight.is_floating_point() and (whole or is_product or _is_of_experts(layer, weight)):
                    yield layer, name, weight


def _is_of_experts(layer: nn.Module, weight: Tensor) -> bool:
    """Whether a weight has the matrices of all experts of a mixture, which transformers keeps in one and multiplies by the part."""
    return weight.dim() == 3 and type(layer).__name__.endswith("Experts")
