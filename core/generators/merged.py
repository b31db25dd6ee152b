"""Products of one input as one product while a model is sampled: queries, keys and values, and the two of a gated MLP.

The product of a few rows takes as long as its weights take to be read, but small ones take longer: on an H100 those of keys and of
values took as long as that of queries, which has four times their weights.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from core.models.head import bias_of
from core.process.memory import free_bytes

ATTENTION, MLP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
"""Layers that read the same input, in the order in which architectures call them."""
MOST = 0.05
"""The share of a device's free memory that copies of weights may take."""

Layers = tuple[nn.Linear, ...]
Key = tuple[tuple[int, int, torch.dtype], ...]


class MergedProducts:
    """The layers of a model whose products can be merged, with their weights one below the other.

    Weights that `owned` affirms come to lie in the merged tensor, so that they take no memory twice. Of all others the tensor holds a
    copy, which `refresh` renews: they stay where they are, since optimizers, engines and files may know them by their place. Their MLPs
    are left alone: their weights are large, so that it would gain little for much memory.

    Plain linear layers alone are merged: no quantized ones, none with an adapter, with hooks, or with weights that are split.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, owned: Callable[[Tensor], bool] = lambda weight: False) -> None:
        plain = [(layers, all(owned(weight) for layer in layers for weight in layer.parameters())) for layers in _mergeable(model)]
        copied = [layers for layers, own in plain if not own and len(layers) == len(ATTENTION)]
        size = sum(weight.nbytes for layers in copied for layer in layers for weight in layer.parameters())
        free = free_bytes(copied[0][0].weight.device) if copied else None
        if free is not None and size > MOST * free:
            copied, size = [], 0
        self.num_bytes = size
        """Of the copies."""
        self._groups = [_Group(layers, own=own) for layers, own in plain if own or layers in copied]
        self._key = _key(model)

    def serves(self, model: nn.Module) -> bool:
        """Whether the model's layers and their weights are where they were."""
        return self._key == _key(model)

    @property
    def places(self) -> tuple[int, ...]:
        """Where the merged weights lie."""
        return tuple(group.weight.data_ptr() for group in self._groups)

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the current weights."""
        for group in self._groups:
            group.refresh()

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Context in which the layers answer with their parts of merged products."""
        parts = [(layer, group, index) for group in self._groups for index, layer in enumerate(group.layers)]
        try:
            for layer, group, index in parts:
                layer.__class__ = _Part
                vars(layer).update(group=group, index=index)
            yield
        finally:
            for layer, group, _ in parts:
                group.forget()
                layer.__class__ = nn.Linear
                vars(layer).pop("group", None)
                vars(layer).pop("index", None)


class _Group:
    """Layers that read the same input, and their weights in one tensor."""

    def __init__(self, layers: Layers, *, own: bool) -> None:
        self.layers, self._own = layers, own
        self._sizes = [layer.out_features for layer in layers]
        self.weight = torch.cat([layer.weight.detach() for layer in layers])
        biases = [bias.detach() for layer in layers if (bias := bias_of(layer)) is not None]
        self._bias = torch.cat(biases) if biases else None
        self._input: Tensor | None = None
        self._products: tuple[Tensor, ...] = ()
        if own:
            for weight, place in self._places():
                weight.data = place

    def _places(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index, place in enumerate(self.weight.split(self._sizes)):
            yield self.layers[index].weight, place
        for index, place in enumerate(() if self._bias is None else self._bias.split(self._sizes)):
            yield self.layers[index].bias, place

    def refresh(self) -> None:
        if not self._own:
            for weight, place in self._places():
                place.copy_(weight)

    def product(self, index: int, input: Tensor) -> Tensor:
        """The product of one layer. The first one's call makes those of all, which the others take if they get the same input."""
        if index == 0:
            self._input, self._products = input, linear(input, self.weight, self._bias).split(self._sizes, -1)
        if self._input is not input:
            layer = self.layers[index]
            return linear(input, layer.weight, layer.bias)
        own = self._products[index]
        if index == len(self.layers) - 1:
            self.forget()
        return own

    def forget(self) -> None:
        self._input, self._products = None, ()


class _Part(nn.Linear):
    """A layer of a group, for as long as it is sampled from."""

    group: _Group
    index: int

    def forward(self, input: Tensor) -> Tensor:
        return self.group.product(self.index, input)


def _mergeable(model: nn.Module) -> list[Layers]:
    groups: list[Layers] = []
    for module in model.modules():
        children = dict(module.named_children())
        for names in (ATTENTION, MLP):
            layers = tuple(layer for layer in map(children.get, names) if _is_plain(layer))
            if len(layers) == len(names) and len({_kind(layer) for layer in layers}) == 1:
                groups.append(layers)
    return groups


def _is_plain(layer: nn.Module | None) -> TypeGuard[nn.Linear]:
    """Whether a layer multiplies its input by its weight and does nothing else, and the whole weight lies here."""
    if type(layer) is not nn.Linear or "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks:  # pyright: ignore[reportPrivateUsage]
        return False
    whole = layer.weight.shape == (layer.out_features, layer.in_features)
    return whole and all(type(weight) is nn.Parameter and weight.is_floating_point() for weight in layer.parameters())


def _kind(layer: nn.Linear) -> tuple[object, ...]:
    bias = bias_of(layer)
    return layer.in_features, layer.weight.dtype, layer.weight.device, None if bias is None else bias.dtype


def _key(model: nn.Module) -> Key:
    weights = (weight for layers in _mergeable(model) for layer in layers for weight in layer.parameters())
    return tuple((id(weight), weight.data_ptr(), weight.dtype) for weight in weights)
