"""Element-wise work of decoders as one kernel each on CUDA devices: RMSNorm with the sum before it, the gate of an MLP with SiLU,
rotary embeddings.

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

from core.models.fused.decoding import Carrying, carried, carry, gates_by_row, rotates_pair
from core.models.fused.rotations import observer, rotated_by_halves
from core.process.layers import layers_of
from core.trees.trial import first_line, kernel_faults

Rotation = Callable[..., tuple[Tensor, Tensor]]

ROTATION = "apply_rotary_pos_emb"
"""What transformers calls it in every architecture that has it."""
ATTENTION, MLP, NORMS = "self_attn", "mlp", ("input_layernorm", "post_attention_layernorm")
"""The parts of a decoder layer."""
_FORMATS = {torch.float32, torch.bfloat16, torch.float16}
_WIDEST = 16384
"""Channels of which a norm's kernel holds a row."""
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
    for kind in {type(layer) for layer in layers_of(model)}:
        layers = [layer for layer in layers_of(model) if type(layer) is kind]
        if all(_looks_like_layer(layer) for layer in layers) and _layer_gives_the_same(layers[0], _fused_layer(kind), device):
            _become(layers, _fused_layer(kind))


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


def _looks_like_layer(layer: nn.Module) -> bool:
    """Whether it has attention and an MLP, each below a norm, of the kinds that were fused before."""
    parts = dict(layer.named_children())
    if parts.keys() != {ATTENTION, MLP, *NORMS} or not all(_looks_like_norm(parts[name]) for name in NORMS):
        return False
    return _looks_like_mlp(parts[MLP]) and ROTATION in getattr(type(parts[ATTENTION]).forward, "__globals__", {})


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
        from core.models.fused.kernels import gated_silu, gated_silu_by_row

        return self.down_proj((gated_silu_by_row if gates_by_row(gate, up) else gated_silu)(gate, up))

    return type(kind.__name__, (kind,), {"forward": forward})


@cache
def _fused_layer(kind: type[nn.Module]) -> type[nn.Module]:
    """The layer with its first sum and the norm after it in one kernel; under autocast what products read is rounded by the norms,
    once, and not for each of them."""

    def forward(self: Any, hidden_states: Tensor, *rest: Any, **options: Any) -> Any:
        if rest:
            return kind.forward(self, hidden_states, *rest, **options)
        first, second = (getattr(self, name) for name in NORMS)
        given = carried(self, hidden_states)
        attended = getattr(self, ATTENTION)(hidden_states=_normed(first, hidden_states) if given is None else given, **options)[0]
        hidden_states, between = _added_and_normed(second, hidden_states, attended)
        more, following = getattr(self, MLP)(between), vars(self).get("following")
        if following is None:
            return hidden_states + more
        hidden_states, normed = _added_and_normed(getattr(following, NORMS[0]), hidden_states, more)
        carry(following, hidden_states, normed)
        return hidden_states

    return type(kind.__name__, (Carrying, kind), {"forward": forward})


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    if not _fits_norm(norm, hidden):
        return norm(hidden)
    from core.models.fused.kernels import normed

    return normed(hidden, norm.weight, norm.variance_epsilon, _read_by_products(norm, hidden))


def _added_and_normed(norm: Any, hidden: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
    if not _fits_norm(norm, hidden) or more.dtype not in _FORMATS or more.shape != hidden.shape:
        added = hidden + more
        return added, norm(added)
    from core.models.fused.kernels import added_and_normed

    return added_and_normed(hidden, more, norm.weight, norm.variance_epsilon, _read_by_products(norm, hidden))


def _fits_norm(norm: Any, hidden: Tensor) -> bool:
    return hidden.is_cuda and {hidden.dtype, norm.weight.dtype} <= _FORMATS and hidden.shape[-1] <= _WIDEST


def _read_by_products(norm: Any, hidden: Tensor) -> torch.dtype:
    """The format in which matrix products read a norm's output: that of autocast, or what it would be without."""
    if torch.is_autocast_enabled("cuda"):
        return torch.get_autocast_dtype("cuda")
    return torch.promote_types(hidden.dtype, norm.weight.dtype)


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
        observed = observer()
        if observed is not None and observed.leave(q, k, (cos, sin)):
            return q, k
        from core.models.fused.kernels import rotated, rotated_pair

        turned = rotated_pair(q, k, cos, sin) if rotates_pair(q, k) else (rotated(q, cos, sin), rotated(k, cos, sin))
        if observed is not None:
            observed.give(*turned)
        return turned

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
        expected = [rotated_by_halves(x, cos, sin) for x in (q, k)]
        found = [*own(q, k, cos, sin), *_rotation(own)(q, k, cos, sin)]
        with torch.enable_grad():  # where others stand in
            found += _rotation(own)(q, k, cos, sin)
        wide = own(q.bfloat16(), k.bfloat16(), cos, sin)[0].dtype == torch.float32
    except torch.OutOfMemoryError:
        raise
    except kernel_faults() as problem:
        _tell(kind, problem)
        return False
    return wide and all((x - y).abs().max() <= _ERROR * y.abs().max() for x, y in zip(found, expected * 3, strict=True))


def _tell(kind: type[nn.Module], problem: Exception) -> None:
    logging.getLogger(__name__).warning("%s stays as it is, slower: its fused kernel fails (%s)", kind.__name__, first_line(problem))


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
    except kernel_faults() as problem:
        _tell(type(layer), problem)
        return False
    return bool((after - before).abs().max() <= _ERROR * before.abs().max())


class _StandIn(nn.Module):
    """In place of attention or of an MLP: something simple of its input, as they are called."""

    def __init__(self, *, pairs: bool) -> None:
        super().__init__()
        self.pairs = pairs

    def forward(self, hidden_states: Tensor, **options: Any) -> Any:
        moved = hidden_states.roll(1, -1) * 0.7
        return (moved, None) if self.pairs else moved


@torch.no_grad()
def _layer_gives_the_same(layer: nn.Module, fused: type[nn.Module], device: torch.device) -> bool:
    """Whether the layer, with stand-ins for attention and MLP, computes in fp32 what it did before."""
    shell = copy.copy(layer)
    parts: dict[str, nn.Module] = {ATTENTION: _StandIn(pairs=True), MLP: _StandIn(pairs=False)}
    draw = torch.Generator().manual_seed(0)
    try:
        for name in NORMS:
            norm = parts[name] = nn.Module.to(copy.deepcopy(layer.get_submodule(name)), device, torch.float32)
            for weight in norm.parameters():
                weight.copy_(torch.randn(weight.shape, generator=draw))
        vars(shell)["_modules"] = {name: parts[name] for name, _ in layer.named_children()}
        inputs = torch.randn(1, 5, next(parts[NORMS[0]].parameters()).shape[-1], generator=draw).to(device)
        with torch.autocast(device.type, enabled=False):
            before, after = type(layer).forward(shell, inputs), fused.forward(shell, inputs)
    except torch.OutOfMemoryError:
        raise
    except kernel_faults() as problem:
        _tell(type(layer), problem)
        return False
    is_plain = isinstance(before, Tensor) and before.shape == after.shape
    return is_plain and bool((after - before).abs().max() <= _ERROR * before.abs().max())
