"""DeepSpeed's ZeRO-2 and ZeRO-3 as an engine (Rajbhandari et al. 2020). Imported only when one of them is configured."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import util
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from core.config import Dtype, EngineKind, Offload, OptimConfig
from core.engines.build_locks import await_builds
from core.engines.hold import held_dtypes, hold_weights
from core.engines.optim import adamw
from core.engines.stamp import require_same_engine, write_engine
from core.process.world import World

TAG = "state"


class DeepSpeedZero:
    """ZeRO-2 shards gradients and optimiser state, ZeRO-3 the weights as well. Raises `ValueError` if DeepSpeed is not installed."""

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
        offload: Offload = Offload.none,
    ) -> None:
        if util.find_spec("deepspeed") is None:
            raise ValueError(f"engine={kind} needs the package deepspeed; run `pip install 'rewardloop[deepspeed]'`.")
        if world.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        await_builds(print if world.is_main else lambda line: None)
        self.kind, self.world, self.dtype = kind, world, dtype
        self.sharded = kind == EngineKind.zero3
        self.plain = module
        self._deepspeed = deepspeed
        settings = _settings(kind, optim, dtype, offload)
        optimizer = adamw(groups, optim)  # before sharding, which leaves no weight its number of dimensions
        if self.sharded:
            self._shard(settings, hold=hold)
        elif hold:
            hold_weights(module, dtype)
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
        self.module = cast("Any", engine)
        self.base_lrs = [group["lr"] for group in self.module.optimizer.param_groups]
        self._require_sharded()
        if self.sharded:
            # The head's weight is read outside its own forward pass, where ZeRO-3 would not gather it.
            for name, head in module.named_modules():
                if name.endswith("score") and isinstance(head, nn.Linear):
                    deepspeed.zero.register_external_parameter(module, head.weight)

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()  # DeepSpeed brings its own

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.module.set_gradient_accumulation_boundary(is_boundary=last)
        self.module.backward(loss * self.world.size)  # it divides by the number of processes

    def step(self, rate: float, *, frozen_groups: Collection[str] = ()) -> float:
        for group, full in zip(self.module.optimizer.param_groups, self.base_lrs, strict=True):
            # At a learning rate of zero AdamW's weight decay moves nothing either.
            group["lr"] = 0.0 if group.get("name") in frozen_groups else full * rate
        self._zero_gradients(frozen_groups)
        self.module.step()
        self._reset_step_counts(frozen_groups)
        norm = self.module.get_global_grad_norm()
        assert norm is not None
        return float(norm)

    def iter_weights(self, prefix: str = "", *, formats: Mapping[str, torch.dtype] = MappingProxyType({})) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.plain.named_parameters():
            if name.startswith(prefix):
                own = name.removeprefix(prefix)
                with self._deepspeed.zero.GatheredParameters([parameter], enabled=self.sharded):
                    yield own, parameter.detach().to(formats.get(own, parameter.dtype))

    def save(self, folder: Path) -> None:
        self.module.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)
        write_engine(folder, self.kind, self.world)

    def load(self, folder: Path) -> None:
        require_same_engine(folder, self.kind, self.world, any_size=False)
        self.module.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)

    def _shard(self, settings: dict[str, Any], *, hold: bool) -> None:
        """Copies this process's share of one part of the model after the other, and gives the part up: never more than one is whole."""
        held = dict(held_dtypes(self.plain, self.dtype)) if hold else {}
        for part in self.plain.modules():
            weights = [weight for weight in part.parameters(recurse=False) if "ds_id" not in vars(weight)]
            for weight in weights:
                # A copy: the main process's values are sent to the others, which would write over what they mapped from the files.
                weight.data = weight.data.to(self.world.device, held.get(weight, weight.dtype), copy=True)
            if weights:
                own = nn.ParameterList(weights)
                self._deepspeed.zero.Init(module=own, config_dict_or_path=settings, dtype=torch.float32, mem_efficient_linear=False)

    def _zero_gradients(self, frozen_groups: Collection[str]) -> None:
        """Keeps frozen groups out of the gradient's norm and of AdamW's moments. DeepSpeed has no way to leave them out altogether."""
        gradients = self.module.optimizer.averaged_gradients
        for number, _ in self._partitions_of(frozen_groups):
            for gradient in gradients.get(number) or ():
                gradient.zero_()

    def _reset_step_counts(self, frozen_groups: Collection[str]) -> None:
        """Takes back the steps that AdamW counted for frozen groups, which would spoil its bias correction later."""
        for _, partition in self._partitions_of(frozen_groups):
            state = self.module.optimizer.optimizer.state[partition]
            if state:
                state["step"].zero_()

    def _partitions_of(self, groups: Collection[str]) -> list[tuple[int, Tensor]]:
        """The flat fp32 partitions that this process holds of `groups`, with the numbers by which DeepSpeed knows them."""
        outer = self.module.optimizer
        names = [group.get("name") for group in outer.optimizer.param_groups]
        partitions: list[Tensor] = outer.fp32_partitioned_groups_flat if self.sharded else outer.single_partition_of_fp32_groups
        # ZeRO-3 splits large groups into sub-groups.
        group_of = outer.sub_group_to_group_id if self.sharded else range(len(partitions))
        return [(number, partition) for number, partition in enumerate(partitions) if names[group_of[number]] in groups]

    def _require_sharded(self) -> None:
        stage = {EngineKind.zero2: 2, EngineKind.zero3: 3}[self.kind]
        took_effect = isinstance(self.module, self._deepspeed.DeepSpeedEngine) and self.module.zero_optimization_stage() == stage
        if took_effect and self.sharded and self.world.size > 1:
            partitioned = cast("list[Any]", [parameter for parameter in self.plain.parameters() if parameter.requires_grad])
            took_effect = all(parameter.ds_tensor.numel() < parameter.ds_numel for parameter in partitioned)
        if not took_effect:
            raise RuntimeError(f"engine={self.kind} did not take effect; choose another engine.")


def _settings(kind: EngineKind, optim: OptimConfig, dtype: Dtype, offload: Offload) -> dict[str, Any]:
    host = {"device": "cpu", "pin_memory": True}
    moved = {"offload_optimizer": host} if offload != Offload.none else {}
    if offload == Offload.all:
        moved["offload_param"] = host
    return {
        "train_micro_batch_size_per_gpu": 1,  # only for its bookkeeping; the trainers split batches themselves
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optim.max_grad_norm,
        "zero_optimization": {"stage": 2 if kind == EngineKind.zero2 else 3, **moved},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {"enabled": dtype == Dtype.bf16, "dtype": "bfloat16"},
        "steps_per_print": 10**9,
    }
