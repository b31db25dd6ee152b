"""Rows of files, folders and hub datasets as stored, each with its row number, counted from 1, for error messages."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from core.data.fingerprint import fingerprint
from core.data.hub import HubId, require_hub
from core.data.json_array import elements, is_array
from core.disk import BrokenFileError, parse_json

if TYPE_CHECKING:  # it takes seconds to import
    from datasets import Dataset

_PACKED = (".gz", ".zst")
_FILE_SUFFIXES = (".parquet", *(kind + packed for kind in (".jsonl", ".json", ".ndjson") for packed in ("", *_PACKED)))
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_USUAL_SPLITS = {"train", "test", "validation", "valid", "val", "dev", "eval"}
"""Names of parquet files that denote a split, unlike `part-0` or `pairs`."""

_T = TypeVar("_T")


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The non-blank lines of a text file, which may be packed (.gz or .zst).

    Only line feeds end a line: `str.splitlines` would also split at U+2028, which JSON strings may contain. Raises a
    `ValueError` that names the file if it is not UTF-8 or cannot be unpacked.
    """
    with _opened(file) as lines:
        yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def parquet_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a parquet file; raises a `ValueError` that names the file if it cannot be read."""
    try:
        with pq.ParquetFile(file) as table:  # in batches, since long texts take several times as much memory as Python objects
            yield from enumerate((row for batch in table.iter_batches(batch_size=1024) for row in batch.to_pylist()), 1)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is no parquet file ({error}).") from error


def read_rows(file: Path, *, broken: Callable[[str], object] | None = None) -> Iterator[tuple[int, Any]]:
    """The rows of a file: parquet, a line of JSON each, or one JSON array of them; JSON may be packed (.gz or .zst).

    Raises a `ValueError` that names the first row that is not JSON, unless `broken` turns its text into something else.
    """
    if file.suffix == ".parquet":
        yield from parquet_rows(file)
        return
    with _opened(file) as text:
        is_one = is_array(text)
    if is_one:
        with _opened(file) as text:
            yield from enumerate(elements(text, str(file), remedy="mend it, or write a row per line"), 1)
        return
    for number, line in numbered_lines(file):
        try:
            row = parse_json(line, f"{file}, row {number}", remedy="mend or remove the row")
        except BrokenFileError:
            if broken is None:
                raise
            row = broken(line)
        yield number, row


@contextmanager
def _opened(file: Path) -> Generator[TextIO]:
    """A text file, unpacked on the way if its name says that it is packed."""
    try:
        if file.suffix == ".gz":
            with gzip.open(file, "rt", encoding="utf-8-sig") as text:
                yield text
        elif file.suffix == ".zst":
            with pa.input_stream(file, compression="zstd") as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
                yield text
        else:
            with file.open(encoding="utf-8-sig") as text:
                yield text
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); convert it.") from error
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        if file.suffix not in _PACKED or isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(f"{file} cannot be unpacked ({error}); pack it again.") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    """The split of a dataset to read, and the wording of error messages; see `dataset_rows`."""

    split: str
    what: str
    remedy: str
    lone_split: bool
    subset: str = ""

    def choose(self, splits: Mapping[str, _T]) -> _T:
        if self.split in splits:
            return splits[self.split]
        if self.lone_split and len(splits) == 1:
            return next(iter(splits.values()))
        raise self.no_split(splits)

    def no_split(self, splits: Iterable[str]) -> ValueError:
        return ValueError(f"{self.what} has no split {self.split!r} but {', '.join(sorted(splits))}; {self.remedy}.")


def dataset_rows(path: str, *, split: str, what: str, remedy: str, lone_split: bool = False, subset: str = "") -> Iterator[tuple[int, Any]]:
    """The rows of a file (see `read_rows`), or of one split of a dataset.

    A dataset is a folder of parquet files, a folder of `datasets.save_to_disk`, or a hub dataset as `org/name` or
    `org/name@revision`. Parquet files are named after their splits, as on the hub (`train_prefs-00000-of-00001.parquet`);
    if none is, together they are the split `train`. With `lone_split`, the only split of a local dataset is read whatever
    its name. `subset` is the configuration of a hub dataset that has several.

    Raises a `ValueError` that begins with `what`, the subject of the sentence (for instance "data.paths names pairs,
    which"), if nothing is there or it cannot be read; one that lists the splits and ends with `remedy` if the split is
    missing.
    """
    place = Path(path).expanduser()
    wanted = _Wanted(split=split, what=what, remedy=remedy, lone_split=lone_split, subset=subset)
    if place.is_file():
        yield from read_rows(place)
    elif place.is_dir():
        saved = (place / "dataset_dict.json").is_file() or (place / "state.json").is_file()
        yield from (_saved_rows if saved else _parquet_folder_rows)(place, wanted)
    elif (hub := HubId.parse(path)) and not path.endswith(_FILE_SUFFIXES):
        yield from _hub_rows(hub, wanted)
    else:
        raise ValueError(
            f"{what} does not exist; give a JSONL or parquet file, a folder of parquet files, a saved dataset, or a hub dataset such as "
            "org/name."
        )


def require_whole_text(row: object, where: str) -> None:
    """Raises a `ValueError` beginning with `where` for text with half of a surrogate pair, which JSON can hold and no file or tokenizer."""
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"{where} holds {half!r}, half of a character (a lone surrogate), in its text; mend or remove the row.") from error


def identified_rows(path: str, *, split: str, what: str, remedy: str) -> tuple[str, Callable[[], Iterator[tuple[int, Any]]]]:
    """What identifies the content of a dataset, and a function that reads its rows as `dataset_rows`; raises alike.

    A file or folder is identified by its fingerprint. Of a hub dataset the rows themselves are hashed, since a name says little: its
    repository may change.
    """
    place, hub = Path(path).expanduser(), HubId.parse(path)
    if not place.exists() and hub and not path.endswith(_FILE_SUFFIXES):
        dataset = _hub_dataset(hub, _Wanted(split=split, what=what, remedy=remedy, lone_split=False))
        return _content_of(dataset), lambda: enumerate(dataset, 1)
    # Of an empty folder, and where nothing is, the reader says what is wrong.
    content = fingerprint(path) if place.is_file() or (place.is_dir() and any(place.iterdir())) else ""
    return content, lambda: dataset_rows(path, split=split, what=what, remedy=remedy)


def dataset_name(path: str) -> str:
    """The name of a file, folder or hub dataset: without its folder or owner, revision and file suffix.

    >>> dataset_name("org/pairs-v0.2@main"), dataset_name("data/pairs.jsonl.gz")
    ('pairs-v0.2', 'pairs')
    """
    file = Path(path)
    if path.endswith(_FILE_SUFFIXES):
        return (file.with_suffix("") if file.suffix in _PACKED else file).stem
    hub = None if file.expanduser().exists() else HubId.parse(path)
    return Path(hub.name if hub else path).name


def _parquet_folder_rows(folder: Path, wanted: _Wanted) -> Iterator[tuple[int, Any]]:
    files = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    if not files:
        raise ValueError(f"{wanted.what} is a folder without parquet files and without a saved dataset; name a file in it.")
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_SHARD.sub("", file.stem), []).append(file)
    named_after_splits = any(_SHARD.search(file.stem) or file.stem in _USUAL_SPLITS for file in files)
    if wanted.split not in splits and not named_after_splits:
        splits = {"train": files}
    yield from enumerate(chain.from_iterable((row for _, row in parquet_rows(file)) for file in wanted.choose(splits)), 1)


def _saved_rows(folder: Path, wanted: _Wanted) -> Iterator[tuple[int, Any]]:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(folder)
    except (OSError, ValueError, KeyError) as error:  # a file of it is missing, truncated or of another kind
        raise ValueError(f"{wanted.what} is a saved dataset that cannot be read ({error}); save it again.") from error
    if isinstance(dataset, DatasetDict):
        chosen = wanted.choose({str(name): rows for name, rows in dataset.items()})
    else:  # saved without its splits: it counts as `train`, and as the split it was cut from
        chosen = dataset if wanted.split == str(dataset.split) else wanted.choose({"train": dataset})
    yield from enumerate(chosen, 1)


def _hub_rows(hub: HubId, wanted: _Wanted) -> Iterator[tuple[int, Any]]:
    yield from enumerate(_hub_dataset(hub, wanted), 1)


def _hub_dataset(hub: HubId, wanted: _Wanted) -> "Dataset":
    require_hub(wanted.what)
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        dataset = load_dataset(hub.name, *filter(None, [wanted.subset]), split=wanted.split, revision=hub.revision)
    except (DatasetsError, ValueError, OSError) as error:
        if found := re.match(r"Unknown split .*? Should be one of \[(.*)\]", str(error)):
            raise wanted.no_split(re.findall(r"[^', ]+", found[1])) from error
        raise ValueError(f"{wanted.what} could not be loaded from the hub ({error}); check the name or give a file.") from error
    return dataset


class _Hashing(io.RawIOBase):
    """Hashes what is written to it."""

    def __init__(self) -> None:
        self.digest = xxhash.xxh3_128()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        return len(data)


def _content_of(dataset: "Dataset") -> str:
    """A hash of the rows of a dataset, at the speed of memory."""
    sink = _Hashing()
    with pa.ipc.new_stream(sink, dataset.data.schema) as stream:
        for table in dataset.with_format("arrow").iter(batch_size=4096):
            stream.write_table(table)
    return sink.digest.hexdigest()
