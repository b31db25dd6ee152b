"""Fingerprints of inputs: files, folders and programs by their content, repositories on the hub by their id."""

import hashlib
import inspect
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib import util
from pathlib import Path
from types import ModuleType

from core.data.hub import HubId
from core.disk import write_json
from core.functions import imported_files, load_function

_MODEL_FILES = ("*.safetensors", "*.bin", "*.gguf", "*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt")
_NOT_THE_MODEL = {"training_args.bin", "trainer_state.json", "record.json"}
"""Files of those kinds in a model's folder that do not change what the model computes."""
HASHES = Path("~/.cache/rewardloop/hashes")
"""Where the hashes of large files are kept."""
_LARGE = 64 * 2**20


def fingerprint(source: str | Path, *, model: bool = False) -> str:
    """Identifies an input by its content, wherever it lies.

    For a file: its SHA-256. For a folder: the SHA-256 of the names, sizes and contents of its files; of a `model` only
    configuration, tokenizer and weights count, not a trainer's state. The hashes of files above 64 MiB are kept in
    ~/.cache/rewardloop/hashes until the file changes. A hub id, such as `allenai/reward-bench-2@main`, and a name without a
    slash are returned unchanged.

    Raises `FileNotFoundError` for a missing path, and for text with a slash that is not a hub id.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _sha256_of_file(path)
    if path.is_dir():
        return _sha256_of_folder(path, model)
    if isinstance(source, Path) or source.startswith((".", "~")) or ("/" in source and HubId.parse(source) is None):
        raise FileNotFoundError(f"There is no file or folder {source}; give an existing path or a hub id such as org/name@revision.")
    return source


def program_fingerprint(name: str) -> str:
    """Identifies the program `module:function` by the file that it names, the one that the function is written in, and what either
    imports from its own folder.

    Empty where Python has no file for it. What it reads otherwise is not known. Raises as `load_function`.
    """
    function = load_function(name, "the program")  # also makes the current folder importable
    spec = util.find_spec(name.partition(":")[0])
    files = {Path(spec.origin): spec.name} if spec is not None and spec.has_location and spec.origin else {}
    if inspect.isroutine(function) or inspect.isclass(function):
        written = inspect.unwrap(function)
        files |= {Path(file): written.__module__ for file in [inspect.getsourcefile(written)] if file}
    files = {file: module for file, module in files.items() if file.is_file()}
    helpers = {place: near for file, module in files.items() for place, near in imported_files(module, file).items() if near not in files}
    digest = hashlib.sha256("".join(f"{place}\0{_sha256_of_file(near)}\n" for place, near in sorted(helpers.items())).encode())
    return " ".join(dict.fromkeys([*map(_sha256_of_file, files), *([digest.hexdigest()] if helpers else [])]))


def code_fingerprint(*modules: ModuleType) -> str:
    """Identifies the text of some modules, for what is kept on disk and must be made again once the code that makes it has changed."""
    digest = hashlib.sha256()
    for module in modules:
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def _sha256_of_folder(folder: Path, model: bool) -> str:
    digest = hashlib.sha256()
    files = sorted((file.relative_to(folder).as_posix(), file) for file in (_model_files(folder) if model else _visible_files(folder)))
    if not files:
        raise FileNotFoundError(f"The folder {folder} holds no file to identify it by.")
    for name, file in files:
        digest.update(f"{name}\0{file.stat().st_size}\0{_sha256_of_file(file)}\n".encode())
    return digest.hexdigest()


def _model_files(folder: Path) -> Iterable[Path]:
    found = {file for pattern in _MODEL_FILES for file in folder.glob(pattern)}
    return (file for file in found if file.name not in _NOT_THE_MODEL and not file.name.startswith("."))


def _visible_files(folder: Path) -> Iterable[Path]:
    return (
        file for file in folder.rglob("*") if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _sha256_of_file(path: Path) -> str:
    return _hashed(path) if path.stat().st_size <= _LARGE else _remembered(path)


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remembered(path: Path) -> str:
    """The hash of a large file, which takes seconds per GB, from the cache if the file has not changed since it was hashed."""
    place = HASHES.expanduser() / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}.json"
    seen = path.stat()
    state = [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino]
    try:
        known = json.loads(place.read_text(encoding="utf-8"))
        if known["state"] == state:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not hashed yet, or not by this version
    found = _hashed(path)
    # A file that was changed a moment ago may change once more without its times telling.
    if time.time_ns() - max(seen.st_mtime_ns, seen.st_ctime_ns) > 2 * 10**9:
        with suppress(OSError):  # no space, or a home that cannot be written to: hashed again next time
            write_json(place, {"state": state, "sha256": found})
    return found
