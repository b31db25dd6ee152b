"""Preference pairs on disk, read one at a time: what a process holds of a pair is a few numbers.

Shapes: N pairs.
"""

import json
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import xxhash
from numpy.typing import NDArray

from core.disk import read_json, write_json
from core.records import Answer, Message, Preference
from core.runs.cache import Cache

PAIR, SWAPPED, PROMPT = 0, 1, 2
"""The hashes of a pair: of prompt, chosen and rejected; the same with the two swapped; of the prompt."""
_TEXT, _ENDS, _HASHES, _META = "pairs.jsonl", "ends.bin", "hashes.bin", "meta.json"
_LONE = "surrogatepass"
"""Roles may hold half a surrogate pair; `json.loads` reads it back from bytes."""


class PairStore(Sequence[Preference]):
    """The pairs in a folder that `write_pairs` made, and `meta`, what was written with them.

    `path` is where they come from, for messages. What is derived from them is kept in the same `cache`, if there is one, under
    names that depend on `name`. All files are open from the beginning, so the folder may be removed. Pairs are read from the file
    rather than mapped: pages of a mapped file would count as memory of the process.
    """

    def __init__(self, folder: Path, *, path: str, name: str, cache: Cache | None) -> None:
        self.path, self.name, self.cache = path, name, cache
        self.meta: dict[str, Any] = read_json(folder / _META, remedy="remove the folder")
        self.hashes_N32: NDArray[np.uint64] = np.fromfile(folder / _HASHES, dtype=np.uint64).reshape(-1, 3, 2)
        self._ends_N: NDArray[np.int64] = np.fromfile(folder / _ENDS, dtype=np.int64)
        self._text = OpenFile(folder / _TEXT)

    def __len__(self) -> int:
        return len(self._ends_N)

    @overload
    def __getitem__(self, index: int) -> Preference: ...
    @overload
    def __getitem__(self, index: slice) -> list[Preference]: ...
    def __getitem__(self, index: int | slice) -> Preference | list[Preference]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        start = int(self._ends_N[place - 1]) if place else 0
        return self._parsed(self._text.read(start, int(self._ends_N[place])))

    def _parsed(self, line: bytes) -> Preference:
        prompt, chosen, rejected, margin, source, number = json.loads(line)
        return Preference(
            prompt=tuple(_turn(turn) for turn in prompt),
            chosen=_answer(chosen),
            rejected=_answer(rejected),
            margin=margin,
            source=source,
            where=f"{self.path}, row {number}",
        )


class OpenFile:
    """A file to read parts of, from any thread; it may be removed meanwhile."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._path = path

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`."""
        parts: list[bytes] = []
        while start < end:
            part = os.pread(self._descriptor, end - start, start)
            if not part:
                raise EOFError(f"{self._path} ends at byte {start}, before {end}")
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def write_pairs(folder: Path, pairs: Iterable[tuple[int, Preference]], meta: Callable[[], Mapping[str, Any]]) -> None:
    """Writes pairs, with the numbers of their rows, as they come, and then `meta`, what their reader found out meanwhile."""
    end = 0
    with (folder / _TEXT).open("wb") as text, (folder / _ENDS).open("wb") as ends, (folder / _HASHES).open("wb") as hashes:
        for number, pair in pairs:
            prompt, chosen, rejected = map(_json, ([_plain(turn) for turn in pair.prompt], _plain(pair.chosen), _plain(pair.rejected)))
            line = f"[{prompt},{chosen},{rejected},{_json(pair.margin)},{_json(pair.source)},{number}]\n".encode(errors=_LONE)
            end += len(line)
            text.write(line)
            ends.write(end.to_bytes(8, sys.byteorder))
            for content in (f"{prompt},{chosen},{rejected}", f"{prompt},{rejected},{chosen}", prompt):
                hashes.write(xxhash.xxh3_128_digest(content.encode(errors=_LONE)))
    write_json(folder / _META, meta())


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _plain(turn: Answer) -> str | list[str]:
    return turn if isinstance(turn, str) else [turn.role, turn.content, turn.fields]


def _turn(plain: Sequence[str]) -> Message:
    role, content, fields = plain
    return Message(role=role, content=content, fields=fields)


def _answer(plain: str | Sequence[str]) -> Answer:
    return plain if isinstance(plain, str) else _turn(plain)


def groups(hashes_N2: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers equal hashes alike: the number of each, of shape (N,), and for each number the first place that has it."""
    order = np.lexsort((hashes_N2[:, 1], hashes_N2[:, 0]))  # stable, so the first of equal ones comes first
    ordered = hashes_N2[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.cumsum(begins) - 1
    return numbers, order[begins]


@dataclass(frozen=True, slots=True, eq=False)
class StoredPairs(Sequence[Preference]):
    """Some pairs of several stores, in an order of their own.

    `places_N` count through the stores one after another. `flipped_N` says whose labels are swapped."""

    stores: Sequence[PairStore]
    places_N: NDArray[np.int64]
    flipped_N: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.places_N)

    @overload
    def __getitem__(self, index: int) -> Preference: ...
    @overload
    def __getitem__(self, index: slice) -> "StoredPairs": ...
    def __getitem__(self, index: int | slice) -> "Preference | StoredPairs":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        store, row = self._home(int(self.places_N[index]))
        pair = self.stores[store][row]
        return replace(pair, chosen=pair.rejected, rejected=pair.chosen) if self.flipped_N[index] else pair

    def __iter__(self) -> Iterator[Preference]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[type[list[Preference]], tuple[list[Preference]]]:
        """Another process, such as that of the hooks, is given the pairs themselves."""
        return list, ([*self],)

    def take(self, indices: NDArray[np.int64] | NDArray[np.bool_]) -> "StoredPairs":
        """The pairs at some indices, or where a mask is true."""
        return replace(self, places_N=self.places_N[indices], flipped_N=self.flipped_N[indices])

    @property
    def homes_2N(self) -> NDArray[np.int64]:
        """The number of each pair's store, and the pair's place in it."""
        starts = np.cumsum([0, *map(len, self.stores)])
        stores_N = np.searchsorted(starts, self.places_N, side="right") - 1
        return np.stack([stores_N, self.places_N - starts[stores_N]])

    def _home(self, place: int) -> tuple[int, int]:
        for number, store in enumerate(self.stores):
            if place < len(store):
                return number, place
            place -= len(store)
        raise IndexError(place)
