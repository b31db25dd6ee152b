"""PyTorch's engines: one process, DistributedDataParallel, and FSDP2."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from core.config import Dtype, EngineKind, OptimConfig
from core.engines.hold import held_dtypes, hold_weights
from core.engines.optim import adamw
from core.engines.stamp import require_same_engine, write_engine
from core.process.layers import layers_of
from core.process.precision import autocast
from core.process.world import World

_TRAINED = StateDictOptions(ignore_frozen_params=True)


class TorchEngine:
    """One process, DistributedDataParallel, or FSDP2's `fully_shard` (Zhao et al. 2023)."""

    def __init__(
        self,
        kind: EngineKind,
        module: nn.Module,
        groups: Sequence[Mapping[str, Any]],
        *,
        optim: OptimConfig,
        dtype: Dtype,
        world: World,
        hold: bool = False,
        offload: bool = False,
        reduce_once: bool = False,
    ) -> None:
        self.kind, self.world, self.dtype, self.reduce_once = kind, world, dtype, reduce_once
        self.sharded = kind == EngineKind.fsdp2
        self.plain = self.module = module
        named_groups = _with_names(module, groups)
        if self.sharded:
            on_gpu = world.device.type == "cuda"
            _shard(module, dtype, hold=hold, policy=CPUOffloadPolicy(pin_memory=on_gpu) if offload else OffloadPolicy())
            _require_sharded(module, world)
        elif hold:
            hold_weights(module, dtype)
        if kind == EngineKind.ddp:
            self.module = DistributedDataParallel(module)
        # Sharding replaces parameters by new ones under the same names.
        named = dict(module.named_parameters())
        self.optimizer = adamw([{**group, "params": [named[name] for name in names]} for group, names in named_groups], optim)
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.max_grad_norm = optim.max_grad_norm

    def autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.world.device, self.dtype)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        # Both DDP and FSDP2 divide by the number of processes.
        if self.reduce_once and isinstance(self.module, FSDPModule):
            self.module.set_requires_gradient_sync(last)
        module = self.module
        with module.no_sync() if isinstance(module, DistributedDataParallel) and not last else nullcontext():
            (loss * self.world.size).backward()

    def step(self, rate: float, *, frozen_groups: Collection[str] = ()) -> float:
        for group, full in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = full * rate
            if group.get("name") in frozen_groups:
                for parameter in group["params"]:
                    parameter.grad = None  # a zero gradient would still count as a step of AdamW
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        clipped = torch.nn.utils.clip_grad_norm_(trained, self.max_grad_norm)
        norm = (clipped.full_tensor() if isinstance(clipped, DTensor) else clipped).item()
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def iter_weights(self, prefix: str = "", *, formats: Mapping[str, torch.dtype] = MappingProxyType({})) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.plain.state_dict().items():
            if name.startswith(prefix):
                own = name.removeprefix(prefix)
                yield own, self._whole(tensor, formats.get(own, tensor.dtype))

    def _whole(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        # Gathered on the GPU, where that is faster, even if it lies in the machine's memory; converted before, which is less to send.
        moved = tensor.detach().to(self.world.device, dtype)
        return moved.full_tensor() if isinstance(moved, DTensor) else moved

    def save(self, folder: Path) -> None:
        if not self.sharded:
            if self.world.is_main:
                torch.save({"model": _trained(self.plain), "optimizer": self.optimizer.state_dict()}, folder / "state.pt")
        else:
            _fill_states(self.optimizer)
            model, optimizer = get_state_dict(self.plain, self.optimizer, options=_TRAINED)
            save_shards({"model": model, "optimizer": optimizer}, storage_writer=FileSystemWriter(folder))
        write_engine(folder, self.kind, self.world)

    def load(self, folder: Path) -> None:
        require_same_engine(folder, self.kind, self.world, any_size=True)
        if not self.sharded:
            state = torch.load(folder / "state.pt", weights_only=True, map_location=self.world.device)
            self.plain.load_state_dict(state["model"], strict=False)
            self.optimizer.load_state_dict(state["optimizer"])
            return
        model, optimizer = get_state_dict(self.plain, self.optimizer, options=_TRAINED)
        load_shards({"model": model, "optimizer": optimizer}, storage_reader=FileSystemReader(folder))  # in place
        set_state_dict(
            self.plain, self.optimizer, model_state_dict=model, optim_state_dict=optimizer, options=StateDictOptions(strict=False)
        )


def _fill_states(optimizer: torch.optim.Optimizer) -> None:
    """Adds AdamW's initial state for parameters that were frozen so far: loading a sharded state expects all of them."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}


def _with_names(module: nn.Module, groups: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], list[str]]]:
    """The groups, each with the names of its trainable parameters."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [(group, [names[id(parameter)] for parameter in group["params"] if parameter.requires_grad]) for group in groups]


def _trained(module: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes: an adapter's base is not saved with every checkpoint."""
    return {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}


def _shard(module: nn.Module, dtype: Dtype, *, hold: bool, policy: OffloadPolicy) -> None:
    """Shards each decoder layer and each embedding separately, then the rest. With bf16, layers are gathered in bf16, the rest in fp32.

    Each process copies its share of one part after the other, and gives the part up: never more than one is whole.
    """
    layers = layers_of(module)
    if not layers:
        raise RuntimeError("engine=fsdp2: the model names no layers to shard (_no_split_modules); choose zero3 or ddp.")
    full = MixedPrecisionPolicy(cast_forward_inputs=False)
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    parts = [(layer, half if dtype == Dtype.bf16 else MixedPrecisionPolicy()) for layer in layers]
    if not isinstance(policy, CPUOffloadPolicy):  # there a model is known to run on the GPU by its first weight, which must be gathered
        inside = {part for layer in layers for part in layer.modules()}
        parts += [(embedding, full) for embedding in _embeddings(module) if embedding not in inside]
    held = dict(held_dtypes(module, dtype)) if hold else {}
    for part, precision in [*parts, (module, full)]:
        whole = [weight for weight in part.parameters() if not isinstance(weight, DTensor)]
        for weight in whole:
            weight.data = weight.data.to(held.get(weight, weight.dtype))
        fully_shard(part, mp_policy=precision, offload_policy=policy)
        for weight in whole:  # the groups of the optimiser still know them
            weight.data = weight.data.new_empty(0)


def _embeddings(module: nn.Module) -> list[nn.Embedding]:
    """The embeddings that share their weights with no other part, which would be gathered at other times."""
    users = Counter(id(weight) for part in module.modules() for weight in part.parameters(recurse=False))
    return [part for part in module.modules() if isinstance(part, nn.Embedding) and users[id(part.weight)] == 1]


def _require_sharded(module: nn.Module, world: World) -> None:
    whole = [name for name, parameter in module.named_parameters() if not isinstance(parameter, DTensor)]
    held = sum(parameter.to_local().numel() for parameter in module.parameters() if isinstance(parameter, DTensor))
    total = sum(parameter.numel() for parameter in module.parameters())
    if whole or not isinstance(module, FSDPModule) or (held >= total and world.size > 1):
        raise RuntimeError(f"engine=fsdp2 did not take effect: {whole[:3] or 'nothing'} is not sharded; choose another engine.")
