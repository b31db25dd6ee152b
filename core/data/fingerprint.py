"""Fingerprints of inputs: files, folders and programs by their content, repositories on the hub by their id."""

import hashlib
import inspect
from collections.abc import Iterable
from importlib import util
from pathlib import Path

from core.data.hub import HubId
from core.functions import load_function

_MODEL_FILES = ("*.safetensors", "*.bin", "*.gguf", "*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt")
_NOT_THE_MODEL = {"training_args.bin", "trainer_state.json", "record.json"}
"""Files of those kinds in a model's folder that do not change what the model computes."""
_WHOLE_FILE_LIMIT = 64 * 2**20
_SAMPLE = 8 * 2**20


def fingerprint(source: str | Path) -> str:
    """Identifies an input by its content, wherever it lies.

    For a file: its SHA-256. For a folder: the SHA-256 of the names, sizes and contents of its files; of a model folder (one
    with a config.json or adapter_config.json) only configuration, tokenizer and weights count, not a trainer's state. Files
    above 64 MiB inside a folder are sampled: 8 MiB each from the start, the middle and the end. A hub id, such as
    `allenai/reward-bench-2@main`, and a name without a slash are returned unchanged.

    Raises `FileNotFoundError` for a missing path, and for text with a slash that is not a hub id.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _sha256_of_file(path)
    if path.is_dir():
        return _sha256_of_folder(path)
    if isinstance(source, Path) or source.startswith((".", "~")) or ("/" in source and HubId.parse(source) is None):
        raise FileNotFoundError(f"There is no file or folder {source}; give an existing path or a hub id such as org/name@revision.")
    return source


def program_fingerprint(name: str) -> str:
    """Identifies the program `module:function` by the file that it names and the one that the function is written in.

    Empty where Python has no file for it. What the program calls elsewhere is not known. Raises as `load_function`.
    """
    function = load_function(name, "the program")  # also makes the current folder importable
    spec = util.find_spec(name.partition(":")[0])
    files = [spec.origin] if spec is not None and spec.has_location and spec.origin else []
    if inspect.isroutine(function) or inspect.isclass(function):
        files += [file for file in [inspect.getsourcefile(inspect.unwrap(function))] if file]
    return " ".join(dict.fromkeys(_sha256_of_file(Path(file)) for file in files if Path(file).is_file()))


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
