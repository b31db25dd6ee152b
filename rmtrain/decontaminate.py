"""Training prompts that overlap with a benchmark's, by the rule of Tulu 3 (Lambert et al. 2024, section 3.2).

A word of a benchmark prompt counts as seen if it is part of an 8-gram that the training prompt has too; a training prompt
contaminates a benchmark prompt if more than half of its words are seen. Tulu 3 counts spaCy tokens; here words are lower-cased
runs of letters, digits and underscores.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from textwrap import shorten

from core.records import Dialogue, Preference
from rmtrain.config import Decontaminate

NGRAM = 8
"""Consecutive words that training and benchmark must have in common."""

_WORD = re.compile(r"\w+")

BenchmarkPrompt = tuple[str, int]
"""Name of a benchmark, and the index of a prompt in it."""


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
    """The remaining pairs by source, the overlaps, and how many pairs of each source were dropped."""

    pairs: dict[str, list[Preference]]
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
    say: Callable[[str], None] = print,
) -> Decontaminated:
    """Finds pairs whose prompts overlap with a benchmark's, and drops them if `mode` says so.

    `sources` has the pairs by source, `benchmarks` the prompts by benchmark. `say` gets one line, with an example, for each
    source and benchmark that overlap.
    """
    if mode == Decontaminate.drop and not any(benchmarks.values()):
        say("data.decontaminate=drop has nothing to compare with, since the hooks score no benchmark (hooks.rewardbench2)")
    kept = {source: list(pairs) for source, pairs in sources.items()}
    num_dropped = dict.fromkeys(sources, 0)
    if mode == Decontaminate.ignore or not any(benchmarks.values()):
        return Decontaminated(pairs=kept, overlaps=[], num_dropped=num_dropped)
    index = BenchmarkIndex(benchmarks)
    found: dict[Dialogue, tuple[BenchmarkPrompt, ...]] = {}
    overlaps: list[Overlap] = []
    for source, pairs in sources.items():
        for pair in pairs:
            if pair.prompt not in found:
                found[pair.prompt] = index.overlaps(pair.prompt)
        overlaps += _overlaps(source, [(pair, found[pair.prompt]) for pair in pairs if found[pair.prompt]], benchmarks)
        if mode == Decontaminate.drop:
            kept[source] = [pair for pair in pairs if not found[pair.prompt]]
            num_dropped[source] = len(pairs) - len(kept[source])
    for overlap in overlaps:
        say(_line(overlap, len(sources[overlap.source]), mode))
    return Decontaminated(pairs=kept, overlaps=overlaps, num_dropped=num_dropped)


def _overlaps(
    source: str, hits: Sequence[tuple[Preference, tuple[BenchmarkPrompt, ...]]], benchmarks: Mapping[str, Sequence[str]]
) -> list[Overlap]:
    overlaps: list[Overlap] = []
    for name, prompts in benchmarks.items():
        of_name = [(pair, sorted(number for benchmark, number in places if benchmark == name)) for pair, places in hits]
        of_name = [(pair, numbers) for pair, numbers in of_name if numbers]
        if of_name:
            pair, (first, *_) = of_name[0]
            asked = [turn.content for turn in pair.prompt if turn.role == "user"][-1]
            num_prompts = len({number for _, numbers in of_name for number in numbers})
            overlaps.append(
                Overlap(benchmark=name, source=source, num_pairs=len(of_name), num_prompts=num_prompts, example=(asked, prompts[first]))
            )
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
