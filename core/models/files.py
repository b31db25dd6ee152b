"""The files of a model's folder: whether they can be read at all, told by name before anything heavy is imported."""

import json
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from core.disk import read_json

_OBJECTS = (
    *("config.json", "generation_config.json", "adapter_config.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "model.safetensors.index.json", "adapter_model.safetensors.index.json"),
)
"""Files that must hold a JSON object; tokenizer.json is left out, which takes up to half a second to parse."""
_LFS = b"version https://git-lfs"
_LONGEST_HEADER = 100_000_000
"""Bytes; the safetensors library accepts no longer one."""


def require_readable(folder: Path, key: str) -> None:
    """Raises a `ValueError` that names `key` and the file for JSON that cannot be read, and for weights that are cut, missing or none.

    Of weights only the headers are read.
    """
    for name in _OBJECTS:
        file = folder / name
        if file.is_file():
            found = read_json(file, remedy=f"{key}={folder} cannot be loaded without it, so copy the model again")
            for shard in sorted(set(found.get("weight_map", {}).values())) if name.endswith(".index.json") else ():
                if not (folder / shard).is_file():
                    raise ValueError(f"{key}={folder} lacks {shard}, which {name} lists; copy the model again.")
    for file in sorted(folder.glob("*.safetensors")):
        if reason := _damage(file):
            raise ValueError(f"{key}={folder} cannot be loaded: {file.name} {reason}; copy the model again.")


@contextmanager
def naming(path: str) -> Generator[None]:
    """Adds `path` to what transformers says of a model that it cannot load, as `ValueError`."""
    from huggingface_hub.errors import StrictDataclassError  # of a config.json with a value of another type

    try:
        yield
    except (StrictDataclassError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        from torch import OutOfMemoryError

        if path in str(error) or isinstance(error, OutOfMemoryError | NotImplementedError):
            raise
        raise ValueError(f"{path} cannot be loaded ({type(error).__name__}: {error})") from error


def _damage(file: Path) -> str:
    """What is wrong with a safetensors file by its header: the length of the header, the header as JSON, and then the weights."""
    size = file.stat().st_size
    with file.open("rb") as content:
        start = content.read(8)
        if start + content.read(len(_LFS) - 8) == _LFS:
            return "is a pointer of Git LFS, not the weights (git lfs pull fetches them)"
        (length,) = struct.unpack("<Q", start) if len(start) == 8 else (size,)
        if length > min(size, _LONGEST_HEADER):
            return "holds no weights"
        content.seek(8)
        try:
            header = json.loads(content.read(length))
        except (ValueError, RecursionError):
            return "holds no weights"
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    return f"has {size} bytes instead of {expected}" if size != expected else ""
