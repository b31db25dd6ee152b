"""Rotary embeddings while every row takes a token at a time: angles from a table, and rotations left to the kernel of attention.

Shapes: B batch, N tokens, L tokens that a row has room for, D channels of a head.
"""

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

UNCHANGING = {"default", "linear", "llama3", "yarn"}
"""The kinds of rotary embeddings whose angles follow from a token's place alone; those of others change with the longest row."""
ASKING = "dynamic"
"""Of the kinds whose angles change with the longest row, those for which the host asks the device how long that is."""
Angles = tuple[Tensor, Tensor]
"""Cosines and sines, each (B, N, D)."""


def rotated_by_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embeddings by torch's operations (Su et al. 2021, https://arxiv.org/abs/2104.09864), of x of shape (B, heads, N, D)."""
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


class Rotations:
    """Where the queries and keys of a model go from their rotation, and then those rotations that attention does itself.

    Some architectures norm or scale them in between, which attention cannot do for them. So they are watched first; rotations are left
    to attention only if it got every time what they gave, and `fits` says of queries and keys that its kernel takes them.
    """

    def __init__(self, fits: Callable[[Tensor, Tensor], bool]) -> None:
        self._fits, self.are_direct = fits, True
        self._leaving = False
        self._given: tuple[Tensor, Tensor] | None = None
        self._angles: Angles | None = None

    @contextmanager
    def observed(self, *, leaving: bool = False) -> Generator[None]:
        """Context of a forward pass. With `leaving` rotations are left to attention, if they may."""
        mark = _observer.set(self)
        self._leaving = leaving and self.are_direct
        try:
            yield
        finally:
            _observer.reset(mark)
            self._given = self._angles = None

    def leave(self, q: Tensor, k: Tensor, angles: Angles) -> bool:
        """Whether attention is to rotate them, by these angles."""
        if not self._leaving or len(angles[0]) != 1 or not self._fits(q, k):
            return False
        self._given, self._angles = (q, k), angles
        return True

    def give(self, q: Tensor, k: Tensor) -> None:
        """Tells what attention should get, rotated."""
        self._given, self._angles = (q, k), None

    def receive(self, q: Tensor, k: Tensor, v: Tensor) -> Angles | None:
        """The angles by which attention is to rotate what it got; None if nothing is left to do."""
        given, angles = self._given, self._angles
        self._given = self._angles = None
        if given is not None and not (given[0] is q and given[1] is k and v.dtype == k.dtype and v.shape == k.shape):
            if angles is not None:
                raise RuntimeError("a rotation was left to attention, which got other queries and keys than when it read the prompts")
            self.are_direct = False
        return angles


_observer: ContextVar[Rotations | None] = ContextVar("_observer", default=None)


def observer() -> Rotations | None:
    """What observes the forward pass that is under way."""
    return _observer.get()


def asks_for_lengths(model: nn.Module) -> bool:
    """Whether a model's rotary embeddings have the host wait for the longest place, which a CUDA graph cannot record."""
    return any(ASKING in str(vars(module).get("rope_type")) for module in model.modules())


class AngleTables:
    """The angles of all places in a row, for the rotary embeddings of a model that do not change; they live as long as this."""

    def __init__(self, model: nn.Module, length: int) -> None:
        self._length = length
        self._tables: dict[tuple[int, torch.dtype], Tensor] = {}
        self._modules = [module for module in model.modules() if _is_unchanging(module)]

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Context in which angles are read from tables, one row of them for each token."""
        try:
            for number, module in enumerate(self._modules):
                vars(module)["forward"] = self._reader(number, module)
            yield
        finally:
            for module in self._modules:
                vars(module).pop("forward", None)

    def _reader(self, number: int, module: nn.Module) -> Callable[[Tensor, Tensor], Angles]:
        def read(x: Tensor, position_ids: Tensor) -> Angles:
            if len(position_ids) != 1:
                return type(module).forward(module, x, position_ids)
            table_2LD = self._tables.get((number, x.dtype))
            if table_2LD is None:
                places_1L = torch.arange(self._length, device=position_ids.device)[None]
                table_2LD = torch.cat(type(module).forward(module, x, places_1L))
                self._tables[number, x.dtype] = table_2LD
            cos_1ND, sin_1ND = table_2LD.index_select(1, position_ids[0]).split(1)
            return cos_1ND, sin_1ND

        return read


def _is_unchanging(module: Any) -> bool:
    if not type(module).__name__.endswith("RotaryEmbedding") or getattr(module, "rope_type", None) not in UNCHANGING:
        return False
    is_plain = "forward" not in vars(module) and not module._forward_hooks and not module._forward_pre_hooks
    return is_plain and list(inspect.signature(type(module).forward).parameters) == ["self", "x", "position_ids"]
