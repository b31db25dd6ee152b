"""Preference pairs from the rows of a file, a folder or a hub dataset, in the forms that such data comes in."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.data.preferences import parse_preference
from core.data.rows import dataset_rows, read_rows
from core.records import Preference
from rmtrain.config import SourceConfig

MAX_REPORTED = 5
"""Broken rows that a message lists with their reasons."""
MAX_NUMBERED = 50
"""Further broken rows that it lists by number."""

ROW_FORMS = "A row is {'prompt', 'chosen', 'rejected'} as text or messages, or {'chosen', 'rejected'} as messages that begin alike."


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadPairs:
    """The pairs of one source whose sides differ, out of `num_rows` rows, and how many rows were left out and why.

    >>> ReadPairs(pairs=[], num_rows=2, num_broken=1, num_equal=1).num_rows
    2
    """

    pairs: list[Preference]
    num_rows: int
    num_broken: int
    num_equal: int


def read_pairs(
    source: SourceConfig, name: str, *, key: str = "data.paths", skip_broken: bool = False, say: Callable[[str], None] = print
) -> ReadPairs:
    """All pairs of a source: a JSONL or parquet file, a folder of parquet files, a saved dataset, or a hub dataset.

    Rows whose two completions are equal express no preference: they are dropped, and `say` is told how many. A row without
    a `source` of its own gets `name`. Raises a `ValueError` that names `key` for a source that cannot be read, and one that
    lists the broken rows, unless `skip_broken`: then they are left out and reported to `say`.
    """
    pairs: list[Preference] = []
    broken: dict[int, str] = {}
    num_rows = 0
    for number, row in _rows(source, key):
        num_rows += 1
        try:
            pairs.append(parse_preference(row, source=name, where=f"{source.path}, row {number}"))
        except ValueError as error:
            broken[number] = f"row {number}: {error}"
    if broken:
        listed = _listed(broken, num_rows)
        if not pairs or not skip_broken:
            remedy = "Fix these rows." if skip_broken else "Fix or remove these rows, or leave them out with data.skip_broken=true."
            raise ValueError(f"{source.path} has {listed}\n{ROW_FORMS} {remedy}")
        say(f"{source.path}: left out {listed}")
    different = [pair for pair in pairs if pair.chosen != pair.rejected]
    if not different:
        raise ValueError(f"{source.path} holds no preference pairs; it needs at least one row whose chosen and rejected differ.")
    num_equal = len(pairs) - len(different)
    if num_equal:
        say(f"dropped {num_equal} of {len(pairs)} pairs of {source.path} whose chosen and rejected are the same text")
    return ReadPairs(pairs=different, num_rows=num_rows, num_broken=len(broken), num_equal=num_equal)


def _listed(broken: Mapping[int, str], num_rows: int) -> str:
    listed = "\n  ".join(list(broken.values())[:MAX_REPORTED])
    others = list(broken)[MAX_REPORTED:]
    numbers = ", ".join(map(str, others[:MAX_NUMBERED])) + (", ..." if len(others) > MAX_NUMBERED else "")
    more = f"\n  and {len(others)} more: {numbers}" if others else ""
    return f"{len(broken)} broken row(s) of {num_rows}:\n  {listed}{more}"


def _rows(source: SourceConfig, key: str) -> Iterator[tuple[int, object]]:
    """Rows with their numbers, counted from 1; a line that is not JSON is yielded as text and rejected later."""
    file = Path(source.path).expanduser()
    if not file.is_file():
        split_key = (
            f"set {key}.split to one of them" if key != "data.paths" else "make it a source of data.sources with one of them as split"
        )
        yield from dataset_rows(source.path, split=source.split, what=f"{key} names {source.path}, which", remedy=split_key)
        return
    if source.split != "train":
        raise ValueError(f"{key} names {source.path}, a file, which has no split {source.split!r}; leave the split out.")
    yield from read_rows(file, broken=str.strip)
