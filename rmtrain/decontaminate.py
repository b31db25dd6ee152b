"""Training prompts that overlap with a benchmark's, by the rule of Tulu 3 (Lambert et al. 2024, section 3.2).

A word of a benchmark prompt counts as seen if it is part of an 8-gram that the training prompt has too; a training prompt
contaminates a benchmark prompt if more than half of its words are seen. Tulu 3 counts spaCy tokens; here words are lower-cased
runs of letters, digits and underscores.

Shapes: N pairs.
"""

import hashlib
import json
import re
import sys
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray

from core.data.fingerprint import code_fingerprint
from core.records import Dialogue, Preference
from core.runs.cache import name_of, private
from rmtrain.config import Decontaminate
from rmtrain.store import PROMPT, PairStore, groups

NGRAM = 8
"""Consecutive words that training and benchmark must have in common."""

MAX_KNOWN = 50_000
"""Sets of 8-grams whose overlaps are remembered."""

_WORD = re.compile(r"\w+")

BenchmarkPrompt = tuple[str, int]
"""Name of a benchmark, and the index of a prompt in it."""

Hits = NDArray[np.int32]
"""Of shape (number, 3): the index of a pair or prompt, that of a benchmark, and that of a prompt in it, for each that overlap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """The pairs of one source whose prompts overlap with prompts of one benchmark, with the first of them as an example.

    >>> Overlap(benchmark="rewardbench2", source="tulu", num_pairs=1, num_prompts=1, example=("Name a fruit.", "Name a fruit")).num_pairs
    1
    """

    benchmark: str
    source: str
    num_pairs: int
    num_prompts: int
    """Prompts of the benchmark that are affected."""
    example: tuple[str, str]
    """The last user turn of a training prompt, and the benchmark prompt that it overlaps with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decontaminated:
    """Which pairs of each source remain, in masks of shape (N,), the overlaps, and how many pairs of each source were dropped."""

    kept: dict[str, NDArray[np.bool_]]
    overlaps: list[Overlap]
    num_dropped: dict[str, int]


class BenchmarkIndex:
    """An index of the 8-grams of benchmark prompts."""

    def __init__(self, benchmarks: Mapping[str, Sequence[str]]) -> None:
        self._places: dict[tuple[str, ...], list[tuple[BenchmarkPrompt, int]]] = defaultdict(list)
        self._num_words: dict[BenchmarkPrompt, int] = {}
        self._short: dict[str, list[BenchmarkPrompt]] = defaultdict(list)
        self._known: dict[frozenset[tuple[str, ...]], tuple[BenchmarkPrompt, ...]] = {frozenset(): ()}
        for name, prompts in benchmarks.items():
            for number, text in enumerate(prompts):
                grams = _ngrams(text)
                if not grams and (short := _normalised(text)):
                    self._short[short].append((name, number))
                self._num_words[name, number] = len(grams) + NGRAM - 1
                for start, gram in enumerate(grams):
                    # Bit i of the mask stands for word i: the union over 8-grams is one `or`.
                    self._places[gram].append(((name, number), ((1 << NGRAM) - 1) << start))

    def overlaps(self, prompt: Dialogue) -> tuple[BenchmarkPrompt, ...]:
        """The benchmark prompts that a training prompt contaminates by the 8-grams of its user turns, in no particular order.

        Benchmark prompts of fewer than 8 words have no 8-gram: they are contaminated by a user turn that is equal up to
        case, whitespace and surrounding punctuation.
        """
        turns = [turn.content for turn in prompt if turn.role == "user"]
        hits = frozenset(self._places.keys() & chain.from_iterable(map(_ngrams, turns)))
        if hits not in self._known:  # phrases that many prompts share ("answer the following question ...") are worked out once
            if len(self._known) > MAX_KNOWN:
                self._known.clear()
            self._known[hits] = self._seen(hits)
        short = {found for text in turns for found in self._short.get(_normalised(text), ())} if self._short else ()
        return (*self._known[hits], *short)

    def _seen(self, grams: frozenset[tuple[str, ...]]) -> tuple[BenchmarkPrompt, ...]:
        masks: dict[BenchmarkPrompt, int] = defaultdict(int)
        for gram in grams:
            for place, mask in self._places[gram]:
                masks[place] |= mask
        return tuple(place for place, mask in masks.items() if 2 * mask.bit_count() > self._num_words[place])


def decontaminate(
    sources: Mapping[str, Sequence[Preference]],
    benchmarks: Mapping[str, Sequence[str]],
    mode: Decontaminate,
    hits: Callable[[str], Hits],
    say: Callable[[str], None] = print,
) -> Decontaminated:
    """Finds pairs whose prompts overlap with a benchmark's, and drops them if `mode` says so.

    `sources` has the pairs by source, `benchmarks` the prompts by benchmark; `hits` gives those of a source (see `hits_of`). `say`
    gets one line, with an example, for each source and benchmark that overlap.
    """
    if mode == Decontaminate.drop and not any(benchmarks.values()):
        say("data.decontaminate=drop has nothing to compare with, since the hooks score no benchmark (hooks.rewardbench2)")
    kept = {source: np.ones(len(pairs), dtype=bool) for source, pairs in sources.items()}
    overlaps: list[Overlap] = []
    if mode != Decontaminate.ignore and any(benchmarks.values()):
        for source, pairs in sources.items():
            found = hits(source)
            overlaps += _overlaps(source, pairs, found, benchmarks)
            if mode == Decontaminate.drop:
                kept[source][found[:, 0]] = False
    for overlap in overlaps:
        say(_line(overlap, len(sources[overlap.source]), mode))
    return Decontaminated(kept=kept, overlaps=overlaps, num_dropped={source: int((~mask).sum()) for source, mask in kept.items()})


def hits_of(prompts: Iterable[Dialogue], benchmarks: Mapping[str, Sequence[str]]) -> Hits:
    """Which prompts overlap with which of the benchmarks'."""
    index, names = BenchmarkIndex(benchmarks), list(benchmarks)
    found = array("i")
    for number, prompt in enumerate(prompts):
        for benchmark, place in index.overlaps(prompt):
            found.extend((number, names.index(benchmark), place))
    return np.array(found, dtype=np.int32).reshape(-1, 3)


def stored_hits(pairs: PairStore, benchmarks: Mapping[str, Sequence[str]]) -> Hits:
    """Which pairs of a source overlap with which prompts of benchmarks; kept in its cache. Every prompt is looked at once."""
    numbers, firsts = groups(pairs.hashes_N32[:, PROMPT])

    def build(folder: Path) -> None:
        # In the order of the file, which disks read fastest.
        order = np.argsort(firsts)
        hits = hits_of((pairs[place].prompt for place in firsts[order].tolist()), benchmarks)
        hits[:, 0] = order[hits[:, 0]]
        hits = hits[np.argsort(hits[:, 0], kind="stable")]
        np.save(folder / "hits.npy", _by_pair(hits, numbers))

    def read(folder: Path) -> Hits:
        return np.load(folder / "hits.npy")

    if pairs.cache is None:
        return private(build, read)
    prompts = hashlib.sha256(json.dumps([[*benchmarks], [*map(list, benchmarks.values())]]).encode()).hexdigest()
    name = name_of("overlaps", {"pairs": pairs.name, "benchmarks": prompts, "code": code_fingerprint(sys.modules[__name__])})
    return pairs.cache.open(name, build, read, what=f"the overlaps of {pairs.path} with benchmarks")


def _by_pair(hits: Hits, numbers_N: NDArray[np.int64]) -> Hits:
    """The hits of pairs, from those of distinct prompts, sorted, and the number of each pair's prompt."""
    starts = np.searchsorted(hits[:, 0], numbers_N, side="left")
    num = np.searchsorted(hits[:, 0], numbers_N, side="right") - starts
    within = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num)
    found = hits[np.repeat(starts, num) + within]
    found[:, 0] = np.repeat(np.arange(len(numbers_N)), num)
    return found


def _overlaps(source: str, pairs: Sequence[Preference], hits: Hits, benchmarks: Mapping[str, Sequence[str]]) -> list[Overlap]:
    overlaps: list[Overlap] = []
    for number, (name, prompts) in enumerate(benchmarks.items()):
        own = hits[hits[:, 1] == number]
        if not len(own):
            continue
        first = own[:, 0].min()
        example = prompts[int(own[own[:, 0] == first, 2].min())]
        asked = [turn.content for turn in pairs[int(first)].prompt if turn.role == "user"][-1]
        num_pairs, num_prompts = (len(np.unique(own[:, column])) for column in (0, 2))
        overlaps.append(Overlap(benchmark=name, source=source, num_pairs=num_pairs, num_prompts=num_prompts, example=(asked, example)))
    return overlaps


def _line(overlap: Overlap, num_pairs: int, mode: Decontaminate) -> str:
    asked, benchmark_asks = (shorten(text, 100, placeholder=" ...") for text in overlap.example)
    many = f"{overlap.num_pairs} of {num_pairs} pairs of {overlap.source}"
    found = f"overlap with {overlap.num_prompts} of {overlap.benchmark}, for instance {asked!r} with {benchmark_asks!r}"
    if mode == Decontaminate.drop:
        return f"dropped {many}, whose prompts {found}"
    return f"the prompts of {many} {found}; leave them out with data.decontaminate=drop"


def _ngrams(text: str) -> list[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return list(zip(*(words[i:] for i in range(NGRAM)), strict=False))


def _normalised(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .,:;!?\"'")
