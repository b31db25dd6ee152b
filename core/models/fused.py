"""Element-wise work of decoders as one kernel each on CUDA devices: RMSNorm, the gate of an MLP with SiLU, rotary embeddings.

In eager mode an RMSNorm is six kernels, the gate two and the rotation ten, which read and write memory while the matrix units wait.
Layers are changed one by one, and only those that give the same values as before on random input; weights, names and checkpoints
are the same.
"""

import copy
import logging
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu
from transformers import PreTrainedModel

Rotation = Callable[..., tuple[Tensor, Tensor]]

ROTATION = "apply_rotary_pos_emb"
"""What transformers calls it in every architecture that has it."""
_ERROR = 1e-5
"""Largest difference in fp32 relative to the largest value, at which a layer counts as unchanged."""


def fuse_layers(model: PreTrainedModel, device: torch.device | None = None) -> None:
    """Gives the model's norms and MLPs fused forward passes where they are the usual ones; on other devices than CUDA nothing.

    `device` is where the model will run, if it does not lie there yet.
    """
    device = device or model.device
    if device.type == "cuda":
        fuse(model, device)


def fuse(model: nn.Module, device: torch.device | None = None) -> None:
    """`fuse_layers` on any device; on a CPU the gate is computed as before."""
    device = device or next(model.parameters()).device
    for kind in {type(module) for module in model.modules()}:
        own = [module for module in model.modules() if type(module) is kind]
        for looks_right, fused in ((_looks_like_norm, _fused_norm), (_looks_like_mlp, _fused_mlp)):
            if all(looks_right(module) for module in own) and _gives_the_same(own[0], fused(kind), device):
                _become(own, fused(kind))
        if _rotates_as_usual(kind, device):
            _become(own, _fused_attention(kind))


def _become(modules: list[nn.Module], kind: type[nn.Module]) -> None:
    for module in modules:
        module.__class__ = kind


def _looks_like_norm(module: nn.Module) -> bool:
    weights = [name for name, _ in module.named_parameters()]
    return type(module).__name__.endswith("RMSNorm") and "variance_epsilon" in vars(module) and weights == ["weight"]


def _looks_like_mlp(module: nn.Module) -> bool:
    children = dict(module.named_children())
    activation = children.get("act_fn")
    is_gated = {"gate_proj", "up_proj", "down_proj"} <= children.keys() and (activation is None or "SiLU" in type(activation).__name__)
    return is_gated and all(weight.is_floating_point() for weight in module.parameters())  # packed ones are not to be copied


@cache
def _fused_norm(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype != self.weight.dtype:  # then the product is in the wider format
            return kind.forward(self, hidden_states)
        return rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)

    return type(kind.__name__, (kind,), {"forward": forward})


@cache
def _fused_mlp(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        if not gate.is_cuda:
            return self.down_proj(silu(gate) * up)
        from core.models.kernels import gated_silu

        return self.down_proj(gated_silu(gate, up))

    return type(kind.__name__, (kind,), {"forward": forward})


@cache
def _fused_attention(kind: type[nn.Module]) -> type[nn.Module]:
    """The same forward pass with another function in place of the one that rotates: that is a name in its module, not a layer."""
    own: Any = kind.forward
    names = {**own.__globals__, ROTATION: _rotation(own.__globals__[ROTATION])}
    forward = FunctionType(own.__code__, names, own.__name__, own.__defaults__, own.__closure__)
    forward.__kwdefaults__ = own.__kwdefaults__
    return type(kind.__name__, (kind,), {"forward": forward})


def _rotation(own: Rotation) -> Rotation:
    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
        half = q.shape[-1] // 2
        fits = q.is_cuda and cos.dim() == 3 and cos.shape[-1] == q.shape[-1] == 2 * half and half & (half - 1) == 0
        if not fits or rest or options:
            return own(q, k, cos, sin, *rest, **options)
        from core.models.kernels import rotated

        return rotated(q, cos, sin), rotated(k, cos, sin)

    return rotate


@torch.no_grad()
def _rotates_as_usual(kind: type[nn.Module], device: torch.device) -> bool:
    """Whether the layer's forward pass rotates queries and keys by halves, and the kernel that stands in gives the same."""
    forward: Any = kind.forward
    code = getattr(forward, "__code__", None)
    own = forward.__globals__.get(ROTATION) if code is not None and ROTATION in code.co_names else None
    if own is None:
        return False
    draw = torch.Generator().manual_seed(0)
    q, k, cos, sin = (torch.randn(shape, generator=draw).to(device) for shape in ((1, 4, 5, 32), (1, 2, 5, 32), (1, 5, 32), (1, 5, 32)))
    try:
        expected = [x * cos[:, None] + torch.cat([-x[..., 16:], x[..., :16]], -1) * sin[:, None] for x in (q, k)]
        found = [*own(q, k, cos, sin), *_rotation(own)(q, k, cos, sin)]
        wide = own(q.bfloat16(), k.bfloat16(), cos, sin)[0].dtype == torch.float32
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, ImportError) as problem:
        _tell(kind, problem)
        return False
    return wide and all((x - y).abs().max() <= _ERROR * y.abs().max() for x, y in zip(found, expected * 2, strict=True))


def _tell(kind: type[nn.Module], problem: Exception) -> None:
    reason = str(problem).strip().partition("\n")[0]
    logging.getLogger(__name__).warning("%s stays as it is, slower: its fused kernel fails (%s)", kind.__name__, reason)


@torch.no_grad()
def _gives_the_same(layer: nn.Module, fused: type[nn.Module], device: torch.device) -> bool:
    """Whether a copy of the layer on the device computes in fp32 what it did before."""
    try:
        copied = nn.Module.to(copy.deepcopy(layer), device, torch.float32)
        draw = torch.Generator().manual_seed(0)
        for weight in copied.parameters():
            if weight.dim() == 1:  # those of norms begin at one, or at zero, which hides how they are used
                weight.copy_(torch.randn(weight.shape, generator=draw))
        width = next(iter(copied.parameters())).shape[-1]
        inputs = torch.randn(5, width, generator=draw).to(device)
        with torch.autocast(device.type, enabled=False):
            before = copied(inputs)
            copied.__class__ = fused
            after = copied(inputs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, ImportError) as problem:
        _tell(type(layer), problem)
        return False
    return bool((after - before).abs().max() <= _ERROR * before.abs().max())
