"""Preference pairs from the rows of a file, a folder or a hub dataset, in the forms that such data comes in."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import core.data.dialogues
import core.data.preferences
import core.data.rows
import core.text
import rmtrain.store
from core.data.fingerprint import code_fingerprint, fingerprint
from core.data.preferences import parse_preference
from core.data.rows import identified_rows, read_rows
from core.records import Preference
from core.runs.cache import Cache, name_of, private
from rmtrain.config import SourceConfig
from rmtrain.store import PairStore, write_pairs

MAX_REPORTED = 5
"""Broken rows that a message lists with their reasons."""
MAX_NUMBERED = 50
"""Further broken rows that it lists by number."""

_CODE = (core.data.dialogues, core.data.preferences, core.data.rows, core.text, rmtrain.store)
"""What decides how rows become stored pairs; this module too."""
ROW_FORMS = "A row is {'prompt', 'chosen', 'rejected'} as text or messages, or {'chosen', 'rejected'} as messages that begin alike."

_Rows = Callable[[], Iterator[tuple[int, object]]]
"""Rows with their numbers, counted from 1; a line that is not JSON is text, and rejected later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadPairs:
    """The pairs of one source whose sides differ, out of `num_rows` rows, and how many rows were left out and why."""

    pairs: PairStore
    num_rows: int
    num_broken: int
    num_equal: int


@dataclass(kw_only=True, slots=True)
class _Tally:
    """What a source was found to hold while it was read: rows, pairs, pairs whose sides are equal, and broken rows."""

    num_rows: int = 0
    num_pairs: int = 0
    num_equal: int = 0
    num_broken: int = 0
    reasons: list[str] = field(default_factory=list)
    """Of the first broken rows, with their numbers."""
    numbers: list[int] = field(default_factory=list)
    """Of the next ones."""

    def pairs(self, rows: _Rows, name: str) -> Iterator[tuple[int, Preference]]:
        """The pairs whose sides differ, with the numbers of their rows."""
        for number, row in rows():
            self.num_rows += 1
            try:
                pair = parse_preference(row, source=name)
            except ValueError as error:
                self.num_broken += 1
                if len(self.reasons) < MAX_REPORTED:
                    self.reasons.append(f"row {number}: {error}")
                elif len(self.numbers) <= MAX_NUMBERED:
                    self.numbers.append(number)
                continue
            self.num_pairs += 1
            if pair.chosen == pair.rejected:
                self.num_equal += 1
            else:
                yield number, pair

    def listed(self) -> str:
        """The broken rows, as a message lists them."""
        numbers = ", ".join(map(str, self.numbers[:MAX_NUMBERED])) + (", ..." if len(self.numbers) > MAX_NUMBERED else "")
        more = f"\n  and {self.num_broken - len(self.reasons)} more: {numbers}" if numbers else ""
        return f"{self.num_broken} broken row(s) of {self.num_rows}:\n  " + "\n  ".join(self.reasons) + more


def read_pairs(
    source: SourceConfig,
    name: str,
    *,
    key: str = "data.paths",
    skip_broken: bool = False,
    cache: Cache | None = None,
    say: Callable[[str], None] = print,
) -> ReadPairs:
    """All pairs of a source: a JSONL or parquet file, a folder of parquet files, a saved dataset, or a hub dataset.

    They are read into a `PairStore`, which is kept in the `cache`, if there is one, and found there next time; what is said is the
    same. Rows whose two completions are equal express no preference: they are dropped, and `say` is told how many. A row without
    a `source` of its own gets `name`. Raises a `ValueError` that names `key` for a source that cannot be read, and one that
    lists the broken rows, unless `skip_broken`: then they are left out and reported to `say`.
    """
    store = _stored(source, name, key, cache)
    found = _Tally(**store.meta)
    if found.num_broken:
        if not found.num_pairs or not skip_broken:
            remedy = "Fix these rows." if skip_broken else "Fix or remove these rows, or leave them out with data.skip_broken=true."
            raise ValueError(f"{source.path} has {found.listed()}\n{ROW_FORMS} {remedy}")
        say(f"{source.path}: left out {found.listed()}")
    if not len(store):
        raise ValueError(f"{source.path} holds no preference pairs; it needs at least one row whose chosen and rejected differ.")
    if found.num_equal:
        say(f"dropped {found.num_equal} of {found.num_pairs} pairs of {source.path} whose chosen and rejected are the same text")
    return ReadPairs(pairs=store, num_rows=found.num_rows, num_broken=found.num_broken, num_equal=found.num_equal)


def _stored(source: SourceConfig, name: str, key: str, cache: Cache | None) -> PairStore:
    content, rows = _identified(source, key)
    place = Path(source.path)
    identity = {
        "content": content,
        "split": source.split,
        "suffixes": place.suffixes[-2:],
        "name": name,
        "code": code_fingerprint(sys.modules[__name__], *_CODE),
    }
    own_name = name_of("pairs", identity)

    def build(folder: Path) -> None:
        tally = _Tally()
        write_pairs(folder, tally.pairs(rows, name), lambda: asdict(tally))

    def read(folder: Path) -> PairStore:
        return PairStore(folder, path=source.path, name=own_name, cache=cache)

    return private(build, read) if cache is None else cache.open(own_name, build, read, what=f"the pairs of {source.path}")


def _identified(source: SourceConfig, key: str) -> tuple[str, _Rows]:
    """What identifies the content of a source, and its rows."""
    file = Path(source.path).expanduser()
    if not file.is_file():
        split_key = (
            f"set {key}.split to one of them" if key != "data.paths" else "make it a source of data.sources with one of them as split"
        )
        return identified_rows(source.path, split=source.split, what=f"{key} names {source.path}, which", remedy=split_key)
    if source.split != "train":
        raise ValueError(f"{key} names {source.path}, a file, which has no split {source.split!r}; leave the split out.")
    return fingerprint(file), lambda: read_rows(file, broken=str.strip)
