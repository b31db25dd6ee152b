"""The weights of a model as safetensors files, written as they come: no process ever holds all of them to save them."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

SHARD = 5_000_000_000
"""Bytes of a file at most, unless a single weight has more. Those of one file are in memory at once."""
INDEX = "model.safetensors.index.json"
_LAYER = re.compile(r"(.*?\.\d+)\.")


def write_weights(
    model: PreTrainedModel, weights: Iterable[tuple[str, Tensor]], folder: Path, *, dtype: torch.dtype | None = None
) -> torch.dtype:
    """Writes the weights of `model`, given one at a time under its own names, as transformers saves them.

    That is in one file `model.safetensors`, or in several with an index; under the names and in the shapes of the files that the
    architecture is published in; and of weights that are tied only one. Floating-point ones are written in `dtype`, by default in
    their own. Returns the format of the first of these.
    """
    for old in [*folder.glob("model*.safetensors"), folder / INDEX]:
        old.unlink(missing_ok=True)
    saved, done = _saved_names(model), set[str]()
    shards = _Shards(folder)
    for group in _by_layer(_chosen(model, weights, saved, done), dtype):
        for name, weight in revert_weight_conversion(model, group).items():
            shards.add(name, weight.contiguous())
    left = set(saved.values()) - done
    assert not left, f"no weights were given for {sorted(left)[:3]}"
    return shards.finish()


def _saved_names(model: PreTrainedModel) -> dict[str, str]:
    """The names of a model's state dict, each with the one that it is saved under: tied weights share one."""
    by_weight: dict[int, list[str]] = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        by_weight.setdefault(id(weight), []).append(name)
    ignored = set(model._keys_to_ignore_on_save or ())  # pyright: ignore[reportPrivateUsage]
    tied: Mapping[str, str] = model.all_tied_weights_keys
    chosen = {name: next((own for own in names if own not in tied), names[0]) for names in by_weight.values() for name in names}
    return {name: own for name, own in chosen.items() if name not in ignored}


def _chosen(
    model: PreTrainedModel, weights: Iterable[tuple[str, Tensor]], saved: Mapping[str, str], done: set[str]
) -> Iterator[tuple[str, Tensor]]:
    """The weights to be saved under their names; then the buffers that were not among them. Names are added to `done`."""
    buffers = ((name, value) for name, value in model.state_dict(keep_vars=True).items() if not isinstance(value, nn.Parameter))
    for source in (weights, buffers):
        for name, weight in source:
            own = saved.get(name)
            if own is not None and own not in done:
                done.add(own)
                yield own, weight


def _by_layer(weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None) -> Iterator[dict[str, Tensor]]:
    """Copies of the weights on the CPU, layer by layer: within one transformers may make several weights of one, such as experts."""

    def layer(entry: tuple[str, Tensor]) -> str:
        found = _LAYER.match(entry[0])
        return entry[0] if found is None else found[1]

    def copied(weight: Tensor) -> Tensor:
        return weight.detach().to("cpu", dtype if dtype is not None and weight.is_floating_point() else weight.dtype, copy=True)

    # A generator of copies: a weight that is gathered is whole only until the next one is asked for.
    for _, group in groupby(((name, copied(weight)) for name, weight in weights), layer):
        yield dict(group)


class _Shards:
    """Files of at most `SHARD` bytes, filled one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[list[str]] = []
        self.num_weights = self.num_bytes = 0
        self._format: torch.dtype | None = None
        self._next: dict[str, Tensor] = {}
        self._size = 0

    def add(self, name: str, weight: Tensor) -> None:
        """Takes up a weight, after writing the file that it does not fit into."""
        if self._format is None and weight.is_floating_point():
            self._format = weight.dtype
        if self._next and self._size + weight.nbytes > SHARD:
            self._write()
        self._next[name] = weight
        self._size += weight.nbytes

    def finish(self) -> torch.dtype:
        """Writes the last file and gives all of them their names, which count them; returns the format of the first weight."""
        self._write()
        dtype = self._format or torch.float32
        if len(self.files) == 1:
            self._part(0).rename(self.folder / "model.safetensors")
            return dtype
        places: dict[str, str] = {}
        for number, names in enumerate(self.files):
            file = f"model-{number + 1:05}-of-{len(self.files):05}.safetensors"
            self._part(number).rename(self.folder / file)
            places |= dict.fromkeys(names, file)
        index = {"metadata": {"total_parameters": self.num_weights, "total_size": self.num_bytes}, "weight_map": places}
        (self.folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return dtype

    def _write(self) -> None:
        save_file(self._next, self._part(len(self.files)), metadata={"format": "pt"})
        self.files.append(list(self._next))
        self.num_weights += sum(weight.numel() for weight in self._next.values())
        self.num_bytes += self._size
        self._next, self._size = {}, 0

    def _part(self, number: int) -> Path:
        return self.folder / f".part-{number}.safetensors"
