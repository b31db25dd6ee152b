"""Training mode that computes what evaluation mode does: everything random in it is switched off.

Shapes: B rows, L tokens, H whatever a module puts out.
"""

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

_RANDOM = re.compile("drop|jitter|noise|stochastic_depth")
"""What the rates are called: attention_dropout, resid_pdrop, layerdrop, drop_path, router_jitter_noise."""
_PASSES = 3
"""Passes in training mode: one may drop nothing by chance."""


def switch_off_dropout(model: nn.Module) -> None:
    """Sets the rates that modules hold to zero: of dropout, of skipped layers, of a router's jitter."""
    for module in model.modules():
        # Dropout modules hold theirs as p, others under names of their own, such as Llama's attention_dropout.
        names = {name for name in vars(module) if _RANDOM.search(name)} | ({"p"} if isinstance(module, nn.Dropout) else set())
        for name in names:
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)


@torch.no_grad()
def require_equal_modes(model: PreTrainedModel, probe: PreTrainedModel | None = None) -> None:
    """Makes sure that the model gives the same in training mode as in evaluation mode, in which it is left.

    Some architectures read their rates from the configuration at every pass; those are set to zero if they have an effect.
    `probe` stands in for a model that is not to be run (`core.models.mapped.first_layers`). Raises `ValueError` that names the
    first module whose output differs even so.
    """
    probe = model if probe is None else probe
    if _differing(probe) is not None:
        for changed in (model, probe):
            _zero_rates(changed)
        name = _differing(probe)
        if name is not None:
            raise ValueError(
                f"{type(model).__name__} gives other values in training mode than in evaluation mode, first in {name or 'its output'}, so "
                "what is trained is not what is evaluated; set the cause to 0 in its config.json, or give a model of another architecture."
            )


def _differing(model: PreTrainedModel) -> str | None:
    """The name of the first module whose output differs between the modes; None if all agree."""
    size = model.config.get_text_config().vocab_size
    ids_BL = (torch.arange(3, 27, device=model.device) % size).view(2, -1)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.autocast(model.device.type, enabled=False):
        expected = _outputs(model, ids_BL, training=False)
        for _ in range(_PASSES):
            found = _outputs(model, ids_BL, training=True)
            # In the order of the calls, so that a module comes after what it is made of.
            for name, before in expected.items():
                after = found.get(name)
                if after is None or not _are_close(before, after):
                    return name
    return None


def _outputs(model: PreTrainedModel, ids_BL: Tensor, *, training: bool) -> dict[str, Tensor]:
    """The first output of every module that was called, in the order in which they finished."""
    outputs: dict[str, Tensor] = {}
    with _recording(model, outputs):
        model.train(training)
        model(input_ids=ids_BL, use_cache=False)
    model.eval()
    return outputs


@contextmanager
def _recording(model: nn.Module, outputs: dict[str, Tensor]) -> Generator[None]:
    def record(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            first = next(_tensors(output), None)
            if first is not None:
                outputs[name] = first.detach().clone()

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: object) -> Iterator[Tensor]:
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else [output]
    return (part for part in parts if isinstance(part, Tensor) and part.is_floating_point())


def _are_close(before_H: Tensor, after_H: Tensor) -> bool:
    """Whether two outputs differ by rounding at most: another kernel may compute either mode."""
    if before_H.shape != after_H.shape:
        return False
    allowed = 1e-3 if before_H.dtype == torch.float32 else 3e-2
    return bool((before_H - after_H).abs().max() <= allowed * before_H.abs().max() + 1e-6)


def _zero_rates(model: PreTrainedModel) -> None:
    configs: dict[int, PreTrainedConfig] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, PreTrainedConfig):
                configs[id(value)] = value
    for config in configs.values():
        for name, value in vars(config).items():
            if _RANDOM.search(name) and isinstance(value, float):
                setattr(config, name, 0.0)
