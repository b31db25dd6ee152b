"""What a run and its inputs are known by: hashes of settings and contents, and names fit for folders."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.disk import jsonable

_MODEL_FILES = ("*.safetensors", "*.bin", "*.gguf", "*.json", "*.jinja", "*.model", "*.txt")


_NOT_THE_MODEL = {"training_args.bin", "trainer_state.json", "record.json"}


_WHOLE_FILE_LIMIT = 64 * 2**20


_SAMPLE = 8 * 2**20


def identity_hash(identity: Mapping[str, Any]) -> str:
    """The first 8 hexadecimal digits of the SHA-256 of `identity` as canonical JSON: sorted keys, floats as `repr` has them.

    >>> identity_hash({"lr": 3e-6, "seed": 0}) == identity_hash({"seed": 0, "lr": 0.000003})
    True
    """
    text = json.dumps(jsonable(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def clean_name(name: str) -> str:
    """`name` as part of a file name: lower case, runs of anything but letters, digits, `.`, `_` and `-` as one `-`, at most 100 long.

    >>> clean_name("Tulu + Skywork, lr=3e-6")
    'tulu-skywork-lr-3e-6'

    Raises `ValueError` where nothing is left, which also keeps `..` out of paths.
    """
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:100].strip(".-_")
    if not cleaned:
        raise ValueError(f"The name {name!r} holds no letter or digit, so it cannot name a folder; give one such as name=tulu-lr3e-6.")
    return cleaned


def fingerprint(source: str | Path) -> str:
    """What identifies an input by its content, wherever it lies.

    For a file it is its SHA-256; for a folder that of the names, sizes and contents of its files, where a model folder (one
    with a config.json) counts its configuration, tokenizer and weights but no state of a trainer. Of a file above 64 MiB
    inside a folder, 8 MiB each at the start, the middle and the end are read. A string that is no local path, such as
    `allenai/reward-bench-2@main`, is returned as it is.

    Raises `FileNotFoundError` for a missing path and for text that can only be meant as a path.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _sha256_of_file(path)
    if path.is_dir():
        return _sha256_of_folder(path)
    if isinstance(source, Path) or source.startswith(("/", ".", "~")) or source.count("/") > 1:
        raise FileNotFoundError(f"There is no file or folder {source}; give an existing path or a hub id such as org/name@revision.")
    return source


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    files = sorted((file.relative_to(folder).as_posix(), file) for file in _counted_files(folder))
    if not files:
        raise FileNotFoundError(f"The folder {folder} holds no file to identify it by.")
    for name, file in files:
        size = file.stat().st_size
        content = _sha256_of_file(file) if size <= _WHOLE_FILE_LIMIT else _sha256_of_samples(file, size)
        digest.update(f"{name}\0{size}\0{content}\n".encode())
    return digest.hexdigest()


def _counted_files(folder: Path) -> Iterable[Path]:
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        found = {file for pattern in _MODEL_FILES for file in folder.glob(pattern)}
        return (file for file in found if file.name not in _NOT_THE_MODEL and not file.name.startswith("."))
    return (
        file for file in folder.rglob("*") if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _sha256_of_samples(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for offset in (0, size // 2, size - _SAMPLE):
            file.seek(offset)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
