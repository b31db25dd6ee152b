"""The layers of a model, which are gathered, run and recomputed one at a time."""

from torch import nn


def layers_of(module: nn.Module) -> list[nn.Module]:
    """All layers of a model, or of the models in a module: what they name as not to be split (`_no_split_modules`)."""
    kinds = {kind for part in module.modules() for kind in (getattr(part, "_no_split_modules", None) or ())}
    return [part for part in module.modules() if type(part).__name__ in kinds]


def layer_lists(module: nn.Module) -> list[nn.ModuleList]:
    """The lists that a model runs through, layer by layer."""
    layers = set(layers_of(module))
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    return [part for part in lists if len(part) and layers.issuperset(part)]
