"""Engines: where weights, gradients and optimiser state lie in training, and how gradients come together.

All of them do the same sums. A trainer calls `module` for its forward passes, `backward` for every micro batch, `step`
once; the losses that it passes in are shares of the global batch's, so that gradients are added up, never averaged.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from core.config import Dtype, EngineConfig, EngineKind, OptimConfig, engine_for
from core.engines.torch_engine import TorchEngine
from core.process.world import World


class Engine(Protocol):
    """What a trainer needs to know of where the weights lie."""

    kind: EngineKind
    module: Any
    """What forward passes call; it holds, or wraps what holds, the model."""
    sharded: bool
    """Whether no process holds all weights."""

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which forward passes run: matrix products in bf16 where the model's dtype asks for it."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Adds the gradients of a micro batch; `last` says that `step` comes next."""
        ...

    def step(self, rate: float, *, frozen_groups: Collection[str] = ()) -> float:
        """Clips, updates by AdamW with the learning rates times `rate`, and clears; returns the gradient's norm before clipping.

        Groups whose name is in `frozen_groups` do not move, nor do they count in the norm. Where the norm is not finite, nothing moves
        (under ZeRO the update is done all the same).
        """
        ...

    def iter_weights(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """The weights whose names begin with `prefix`, by the rest of their names: one after another, each in full.

        On all processes, which must go through all of them together. Buffers are not among them.
        """
        ...

    def weights(self, prefix: str = "") -> dict[str, Tensor] | None:
        """The same all at once, on the main process; None elsewhere. All processes must call it."""
        ...

    def save(self, folder: Path) -> None:
        """Writes weights and optimiser state into the folder, which exists; all processes must call it."""
        ...

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote, to the last bit."""
        ...


def open_engine(
    config: EngineConfig, module: nn.Module, groups: Sequence[Mapping[str, Any]], *, optim: OptimConfig, dtype: Dtype, world: World
) -> Engine:
    """Puts a module and an AdamW over `groups` (`{"params", "lr"}` and perhaps a `"name"`, of the module's parameters) under an engine.

    Raises `ValueError` for an engine that this number of processes cannot have, and `RuntimeError` where sharding was asked
    for and did not happen.
    """
    kind = engine_for(config.kind, world.size)
    if kind in (EngineKind.zero2, EngineKind.zero3):
        from core.engines.deepspeed_engine import DeepSpeedZero

        return DeepSpeedZero(kind, module, groups, optim=optim, dtype=dtype, world=world)
    return TorchEngine(kind, module, groups, optim=optim, dtype=dtype, world=world)
