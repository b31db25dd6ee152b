"""Models whose weights stay in their files until an engine shards them, so that no process ever holds all of them.

transformers maps safetensors into memory, and a weight that is neither converted nor moved stays there: the kernel reads it where it
is used, shares it among the processes of a machine, and drops it when memory is short. Such a model takes next to no memory of its
own. An engine copies each process's share out of it, layer by layer.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from core.models.locate import ModelLocation, find_file
from core.process.layers import layer_lists

_FORMATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_MOST_LAYERS = 8
"""No architecture repeats its pattern of layers after more."""
_PROBED_IDS = 1024
"""Ids that are looked at to learn something about an architecture are below."""


def weight_files(source: ModelLocation) -> list[Path]:
    """The safetensors files that hold a model's weights; none if it was saved in another format."""
    index = find_file(source, "model.safetensors.index.json")
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index is not None else ["model.safetensors"]
    return [file for name in names if (file := find_file(source, name)) is not None]


def stored_dtype(files: Sequence[Path]) -> torch.dtype | None:
    """The data type of most of the numbers in these files; None where there are none, or no floating-point ones."""
    sizes: dict[torch.dtype, int] = {}
    for file in files:
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # no dict, and cannot be iterated over
                part = weights.get_slice(name)
                if part.get_dtype() in _FORMATS:
                    dtype = _FORMATS[part.get_dtype()]
                    sizes[dtype] = sizes.get(dtype, 0) + torch.Size(part.get_shape()).numel()
    return max(sizes, key=lambda dtype: sizes[dtype]) if sizes else None


@torch.no_grad()
def restore_wider(model: PreTrainedModel, files: Sequence[Path], dtype: torch.dtype) -> set[str]:
    """Gives weights that are stored in a wider format than `dtype`, in which the model was loaded, their stored values.

    Returns the names of those that the model does not have, or under another name.
    """
    own, lost = dict(model.state_dict(keep_vars=True)), set[str]()
    for file in files:
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                stored = _FORMATS.get(weights.get_slice(name).get_dtype())
                if stored is None or torch.promote_types(stored, dtype) == dtype:
                    continue
                weight = own.get(name, own.get(f"{model.base_model_prefix}.{name}"))
                if weight is None:
                    lost.add(name)
                elif list(weight.shape) == weights.get_slice(name).get_shape():
                    weight.data = weights.get_tensor(name)
    return lost


def sharing_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose weights lie in the same memory as the model's, for an engine that will copy shares out of it."""
    memo: dict[int, object] = {id(weight): nn.Parameter(weight.data, weight.requires_grad) for weight in model.parameters()}
    return copy.deepcopy(model, memo)


@torch.no_grad()
def first_layers(model: PreTrainedModel) -> PreTrainedModel:
    """A copy on the GPU if there is one, in fp32, with no more of the first layers than it takes to have one of every kind.

    Of the vocabulary it has the first ids alone. What follows from a model's architecture rather than its weights can be seen on
    it, without making the whole one.
    """
    memo: dict[int, object] = {}
    head = model.get_output_embeddings()
    for part in [*(part for part in model.modules() if isinstance(part, nn.Embedding)), *([] if head is None else [head])]:
        memo |= {id(weight): nn.Parameter(weight[:_PROBED_IDS].clone()) for weight in part.parameters(recurse=False)}
    for layers in layer_lists(model):
        memo[id(layers)] = nn.ModuleList(copy.deepcopy(layer, memo) for layer in layers[: _num_kinds(layers)])
    probe = copy.deepcopy(model, memo)
    for part in probe.modules():
        if isinstance(part, nn.Embedding):
            part.padding_idx = None  # may be beyond the first ids, and is of use to gradients alone
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nn.Module.to(probe, device, torch.float32)  # typed, unlike PreTrainedModel's own
    return probe.eval()


def _num_kinds(layers: nn.ModuleList) -> int:
    """The number of first layers after which no new kind follows."""
    kinds = [_kind(layer) for layer in layers]
    return min(max(kinds.index(kind) for kind in set(kinds)) + 1, _MOST_LAYERS)


def _kind(layer: nn.Module) -> object:
    """What a layer is made of, and its settings, apart from its number."""
    return tuple(
        (type(part).__name__, tuple(sorted(f"{key}={value}" for key, value in vars(part).items() if _is_setting(key, value))))
        for part in layer.modules()
    )


def _is_setting(key: str, value: object) -> bool:
    return isinstance(value, bool | str | int | None) and "idx" not in key and "layer_id" not in key
