"""Rows of files, folders and hub datasets, numbered from 1 for the messages that name them."""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.data.hub import require_hub

_HUB_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")
_FILE_SUFFIXES = (".jsonl", ".json", ".parquet")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_USUAL_SPLITS = {"train", "test", "validation", "valid", "val", "dev", "eval"}
"""What a parquet file is called where it holds a split; part-0 or pairs is no split."""


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank.

    Only line feeds part lines: `str.splitlines` would also cut at U+2028, which JSON may hold. Raises `ValueError` that
    names the file where it is not UTF-8.
    """
    try:
        with file.open(encoding="utf-8-sig") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); convert it.") from error


def parquet_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a parquet file; raises `ValueError` that names the file where it cannot be read."""
    try:
        with pq.ParquetFile(file) as table:  # by batches: a dataset of long texts is several times as large in Python
            yield from enumerate((row for batch in table.iter_batches(batch_size=1024) for row in batch.to_pylist()), 1)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is no parquet file ({error}).") from error


def read_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a parquet or JSONL file; raises `ValueError` that names the row which is no JSON."""
    if file.suffix == ".parquet":
        yield from parquet_rows(file)
        return
    for number, line in numbered_lines(file):
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, row {number} is no JSON ({error}); mend or remove the row.") from error


def dataset_rows(path: str, *, split: str, what: str, remedy: str) -> Iterator[tuple[int, Any]]:
    """The rows of one split of a folder of parquet files, of a folder of `datasets.save_to_disk`, or of a hub dataset.

    A hub dataset is `org/name` or `org/name@revision`. Parquet files bear the names of their splits, as on the hub
    (`train_prefs-00000-of-00001.parquet`); where none does, all of them are `train`. Raises `ValueError` that begins with
    `what` (for instance "data.paths names pairs") where nothing is there or cannot be read, and one that lists the splits
    and ends with `remedy` where the split is not among them.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
        yield from (_saved_rows if saved else _parquet_folder_rows)(folder, split, what, remedy)
    elif (match := _HUB_NAME.fullmatch(path)) and not path.endswith(_FILE_SUFFIXES):
        yield from _hub_rows(match[1], match[2], split, what, remedy)
    else:
        raise ValueError(
            f"{what}, which does not exist; give a JSONL or parquet file, a folder of parquet files, a saved dataset, or a hub "
            "dataset such as org/name."
        )


def dataset_name(path: str) -> str:
    """What a file, folder or hub dataset is called: without its folder or owner, revision and file suffix.

    >>> dataset_name("org/pairs-v0.2@main"), dataset_name("data/pairs.jsonl")
    ('pairs-v0.2', 'pairs')
    """
    file = Path(path)
    if file.suffix in _FILE_SUFFIXES:
        return file.stem
    match = None if file.expanduser().exists() else _HUB_NAME.fullmatch(path)
    return Path(match[1] if match else path).name


def _parquet_folder_rows(folder: Path, split: str, what: str, remedy: str) -> Iterator[tuple[int, Any]]:
    files = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    if not files:
        raise ValueError(f"{what}, a folder without parquet files and without a saved dataset; name a file in it.")
    splits = {_SHARD.sub("", file.stem): file for file in files}
    of_split = [file for file in files if _SHARD.sub("", file.stem) == split]
    parted = any(_SHARD.search(file.stem) or file.stem in _USUAL_SPLITS for file in files)
    if not of_split and (parted or split != "train"):
        raise _no_split(what, split, splits if parted else ["train"], remedy)
    yield from enumerate(chain.from_iterable((row for _, row in parquet_rows(file)) for file in of_split or files), 1)


def _saved_rows(folder: Path, split: str, what: str, remedy: str) -> Iterator[tuple[int, Any]]:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(folder)
    except (OSError, ValueError, KeyError) as error:  # a file of it is missing, torn, or not what it should be
        raise ValueError(f"{what}, a saved dataset that cannot be read ({error}); save it again.") from error
    # A dataset that was saved without its splits is taken for `train`, whatever it was cut from.
    splits = {str(name): rows for name, rows in dataset.items()} if isinstance(dataset, DatasetDict) else {"train": dataset}
    if not isinstance(dataset, DatasetDict) and dataset.split is not None:
        splits[str(dataset.split)] = dataset
    if split not in splits:
        raise _no_split(what, split, splits, remedy)
    yield from enumerate(splits[split], 1)


def _hub_rows(name: str, revision: str | None, split: str, what: str, remedy: str) -> Iterator[tuple[int, Any]]:
    require_hub(what)
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        dataset = load_dataset(name, split=split, revision=revision)
    except (DatasetsError, ValueError, OSError) as error:
        if found := re.match(r"Unknown split .*? Should be one of \[(.*)\]", str(error)):
            raise _no_split(what, split, re.findall(r"[^', ]+", found[1]), remedy) from error
        raise ValueError(f"{what}, which could not be loaded from the hub ({error}); check the name or give a file.") from error
    yield from enumerate(dataset, 1)


def _no_split(what: str, split: str, splits: Iterable[str], remedy: str) -> ValueError:
    return ValueError(f"{what}, which has no split {split!r} but {', '.join(sorted(splits))}; {remedy}.")
