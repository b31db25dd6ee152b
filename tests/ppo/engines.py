"""Engines of one process for tests: plain gradient descent, since Adam would hide a wrong scale."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core.config import Dtype, EngineKind, OptimConfig
from core.engines.torch_engine import TorchEngine
from core.process.world import World
from ppo.model import ActorCritic

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def trained(model: nn.Module) -> list[Tensor]:
    """The parameters that an update may move: all but the reference's."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def engine_of(
    model: ActorCritic, *, lr: float, optim: OptimConfig, optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD, **options: Any
) -> TorchEngine:
    """A plain engine around the model, whose optimiser is another one."""
    critic = [*model.critic_body.parameters(), *model.critic_head.parameters()]
    groups = [{"name": "actor", "params": list(model.actor.parameters()), "lr": lr}, {"name": "critic", "params": critic, "lr": lr}]
    engine = TorchEngine(EngineKind.single, model, groups, optim=optim, dtype=Dtype.fp32, world=ALONE)
    engine.optimizer = optimizer(groups, lr=lr, **options)  # pyright: ignore[reportAttributeAccessIssue]
    engine.base_lrs = [lr, lr]
    return engine
