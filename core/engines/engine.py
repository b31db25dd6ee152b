"""Engines: where weights, gradients and optimiser state live during training, and how gradients are reduced.

All engines compute the same update. A trainer calls `module` for forward passes, `backward` for every micro-batch and
`step` once per batch; each loss it passes in is its share of the global batch's loss, so gradients are summed, never averaged.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from core.config import Dtype, EngineConfig, EngineKind, Offload, OptimConfig, engine_for
from core.engines.torch_engine import TorchEngine
from core.process.world import World, join_group_alone


class Engine(Protocol):
    """What a trainer needs from an engine."""

    kind: EngineKind
    module: Any
    """Called for forward passes: the model, or a wrapper around it."""
    sharded: bool
    """Whether the weights are split over processes, so that none holds all of them."""

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for forward passes: matrix products in bf16 if that is the model's dtype."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulates the gradients of a micro-batch; `last` means that `step` comes next."""
        ...

    def step(self, rate: float, *, frozen_groups: Collection[str] = ()) -> float:
        """Clips gradients, takes an AdamW step at `rate` times the learning rates, clears gradients; returns their norm before clipping.

        Groups named in `frozen_groups` do not move and do not count in the norm; under ZeRO they must not have moved before,
        since AdamW's state begins anew when they are unfrozen. If the norm is not finite, nothing moves (ZeRO updates all the
        same).
        """
        ...

    def iter_weights(self, prefix: str = "", *, formats: Mapping[str, torch.dtype] = MappingProxyType({})) -> Iterator[tuple[str, Tensor]]:
        """Yields the weights whose names begin with `prefix`, under the rest of the name, one at a time and unsharded.

        Each is in the format that `formats` gives for that name, else in its own. All processes must iterate to the end together.
        Buffers are not included.
        """
        ...

    def save(self, folder: Path) -> None:
        """Writes weights and optimiser state into an existing folder. All processes must call it."""
        ...

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote, bit for bit. All processes must call it."""
        ...


def open_engine(
    config: EngineConfig,
    module: nn.Module,
    groups: Sequence[Mapping[str, Any]],
    *,
    optim: OptimConfig,
    dtype: Dtype,
    world: World,
    hold: bool = False,
) -> Engine:
    """The configured engine around a module, with AdamW over `groups`: dicts of `params`, `lr` and optionally `name`.

    If the engine shards the weights, the module may lie in files or on the CPU (`core.models.mapped`), and each process copies its
    share of one layer after the other to its device. With `hold` the weights are held as `core.engines.hold` says, otherwise in the
    formats that they come in.

    Raises `ValueError` if the engine does not work with this number of processes, and `RuntimeError` if sharding was asked
    for and did not take effect.
    """
    kind = engine_for(config.kind, world.size)
    if world.size == 1 and kind != EngineKind.single:
        join_group_alone()
    if kind in (EngineKind.zero2, EngineKind.zero3):
        from core.engines.deepspeed_engine import DeepSpeedZero

        return DeepSpeedZero(kind, module, groups, optim=optim, dtype=dtype, world=world, hold=hold, offload=config.offload)
    return TorchEngine(
        kind,
        module,
        groups,
        optim=optim,
        dtype=dtype,
        world=world,
        hold=hold,
        offload=config.offload == Offload.all,
        reduce_once=config.reduce_once,
    )
