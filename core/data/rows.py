"""Rows of files, folders and hub datasets as stored, each with its row number, counted from 1, for error messages."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from core.data.hub import HubId, require_hub

_FILE_SUFFIXES = (".jsonl", ".json", ".parquet")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_USUAL_SPLITS = {"train", "test", "validation", "valid", "val", "dev", "eval"}
"""Names of parquet files that denote a split, unlike `part-0` or `pairs`."""

_T = TypeVar("_T")


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The non-blank lines of a text file.

    Only line feeds end a line: `str.splitlines` would also split at U+2028, which JSON strings may contain. Raises a
    `ValueError` that names the file if it is not UTF-8.
    """
    try:
        with file.open(encoding="utf-8-sig") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); convert it.") from error


def parquet_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a parquet file; raises a `ValueError` that names the file if it cannot be read."""
    try:
        with pq.ParquetFile(file) as table:  # in batches, since long texts take several times as much memory as Python objects
            yield from enumerate((row for batch in table.iter_batches(batch_size=1024) for row in batch.to_pylist()), 1)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is no parquet file ({error}).") from error


def read_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a parquet or JSONL file; raises a `ValueError` that names the first row that is not JSON."""
    if file.suffix == ".parquet":
        yield from parquet_rows(file)
        return
    for number, line in numbered_lines(file):
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, row {number} is no JSON ({error}); mend or remove the row.") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    """The split of a dataset to read, and the wording of error messages; see `dataset_rows`."""

    split: str
    what: str
    remedy: str
    lone_split: bool

    def choose(self, splits: Mapping[str, _T]) -> _T:
        if self.split in splits:
            return splits[self.split]
        if self.lone_split and len(splits) == 1:
            return next(iter(splits.values()))
        raise self.no_split(splits)

    def no_split(self, splits: Iterable[str]) -> ValueError:
        return ValueError(f"{self.what} has no split {self.split!r} but {', '.join(sorted(splits))}; {self.remedy}.")


def dataset_rows(path: str, *, split: str, what: str, remedy: str, lone_split: bool = False) -> Iterator[tuple[int, Any]]:
    """The rows of a JSONL or parquet file, or of one split of a dataset.

    A dataset is a folder of parquet files, a folder of `datasets.save_to_disk`, or a hub dataset as `org/name` or
    `org/name@revision`. Parquet files are named after their splits, as on the hub (`train_prefs-00000-of-00001.parquet`);
    if none is, together they are the split `train`. With `lone_split`, the only split of a local dataset is read whatever
    its name.

    Raises a `ValueError` that begins with `what`, the subject of the sentence (for instance "data.paths names pairs,
    which"), if nothing is there or it cannot be read; one that lists the splits and ends with `remedy` if the split is
    missing.
    """
    place, wanted = Path(path).expanduser(), _Wanted(split=split, what=what, remedy=remedy, lone_split=lone_split)
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


def dataset_name(path: str) -> str:
    """The name of a file, folder or hub dataset: without its folder or owner, revision and file suffix.

    >>> dataset_name("org/pairs-v0.2@main"), dataset_name("data/pairs.jsonl")
    ('pairs-v0.2', 'pairs')
    """
    file = Path(path)
    if file.suffix in _FILE_SUFFIXES:
        return file.stem
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
    require_hub(wanted.what)
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        dataset = load_dataset(hub.name, split=wanted.split, revision=hub.revision)
    except (DatasetsError, ValueError, OSError) as error:
        if found := re.match(r"Unknown split .*? Should be one of \[(.*)\]", str(error)):
            raise wanted.no_split(re.findall(r"[^', ]+", found[1])) from error
        raise ValueError(f"{wanted.what} could not be loaded from the hub ({error}); check the name or give a file.") from error
    yield from enumerate(dataset, 1)
