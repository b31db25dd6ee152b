"""Preference pairs for training: mixed from sources, cleaned, sampled, split and flipped.

Shapes: N pairs.
"""

import random
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.data.rows import dataset_name
from core.records import Preference
from core.runs.cache import Cache
from rmtrain.config import Decontaminate, PreferenceDataConfig, SourceConfig
from rmtrain.decontaminate import Decontaminated, Hits, decontaminate, stored_hits
from rmtrain.rows import ReadPairs, read_pairs
from rmtrain.store import PAIR, PROMPT, SWAPPED, PairStore, StoredPairs, groups


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceData:
    """The pairs of a mix, those to train on and those held out, and counts of what happened to the rows that were read.

    `counts` is plain data for the run's record. Under `sources` it has, for each source, the rows read, those left out by
    reason, those kept, and how many of these are held out and trained on (repeats counted); next to it are totals.

    >>> PreferenceData(training=[], held_out=[], counts={"flipped": 0}).counts["flipped"]
    0
    """

    training: Sequence[Preference]
    held_out: Sequence[Preference]
    counts: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Entries:
    """Pairs that the mix contains `copies_N` times each, by their places (see `StoredPairs`)."""

    places_N: NDArray[np.int64]
    copies_N: NDArray[np.int64]

    def take(self, indices: NDArray[np.int64] | NDArray[np.bool_]) -> "_Entries":
        """The entries at some indices in their order, or where a mask is true."""
        return _Entries(places_N=self.places_N[indices], copies_N=self.copies_N[indices])


def load_preferences(
    config: PreferenceDataConfig, *, seed: int, benchmark_prompts: Mapping[str, Sequence[str]] = {}, say: Callable[[str], None] = print
) -> PreferenceData:
    """The training and held-out pairs of all sources; every draw has a seed of its own.

    The steps, in order: read; drop pairs with equal sides, duplicates and overlaps with `benchmark_prompts` (by benchmark);
    draw by weights below 1 and by `subsample`; split off the held-out share, by prompt; flip; repeat for weights above 1, so
    that all copies of a pair agree; shuffle. Held-out pairs are neither flipped nor repeated: accuracy is measured against
    the labels as given. `say` gets a line about everything that is left out. Raises `ValueError` as `rmtrain.rows.read_pairs`
    does, and if no pair is left to train on.

    The pairs stay on disk, in `config.cache`: they are told apart by hashes, and drawn by number.
    """
    sources = named_sources(config)
    cache = Cache(home=Path(config.cache), max_gb=config.cache_gb, setting="data.cache", say=say)
    read = {
        name: read_pairs(source, name, key=_key(config, name), skip_broken=config.skip_broken, cache=cache, say=say)
        for name, source in sources.items()
    }
    mix = _Mix({name: found.pairs for name, found in read.items()})
    num_duplicates = mix.deduplicate(say) if config.deduplicate else {}
    num_contradictions = mix.count_contradictions(say)
    validation = _validation(config, cache, say)
    if validation:
        benchmark_prompts = {**benchmark_prompts, "data.validation": [pair.prompt[-1].content for store in validation for pair in store]}
    clean = mix.decontaminate(benchmark_prompts, config.decontaminate, say)
    if not len(mix.places()):
        raise ValueError("every pair overlaps with a benchmark, so none is left to train on; set data.decontaminate=report.")

    entries = _weighted(mix, {name: source.weight for name, source in sources.items()}, seed)
    entries = entries.take(_shuffled(len(entries.places_N), f"shuffle {seed}"))
    entries = entries.take(np.arange(max(1, round(config.subsample * len(entries.places_N)))))
    num_entries = len(entries.places_N)
    is_out = _held_out(mix.hashes_N32[entries.places_N, PROMPT], config.held_out)
    training, held_out = entries.take(~is_out), entries.take(is_out)
    num_training = len(training.places_N)
    if not num_training:
        raise ValueError(f"data.held_out={config.held_out} leaves none of {num_entries} pair(s) to train on; lower it.")
    if config.held_out and not is_out.any():
        say(f"data.held_out={config.held_out} holds out none of {num_entries} pair(s): too few pairs, or too few different prompts")
    places = np.repeat(training.places_N, training.copies_N)
    is_flipped = np.repeat(flipped(num_training, config.flip, seed=seed), training.copies_N)
    if len(places) > num_training:  # the copies of a pair are still next to each other
        order = _shuffled(len(places), f"shuffle repeats {seed}")
        places, is_flipped = places[order], is_flipped[order]

    stores = [*mix.stores, *validation]
    measured = np.concatenate([held_out.places_N, np.arange(len(mix.hashes_N32), sum(map(len, stores)))])
    counts = {
        "sources": _counts_by_source(read, num_duplicates, clean, mix, entries.places_N, held_out.places_N, places),
        "contradictions": num_contradictions,
        "training": len(places),
        "held_out": len(measured),
        "flipped": round(config.flip * num_training),
    }
    return PreferenceData(
        training=StoredPairs(mix.stores, places, is_flipped),
        held_out=StoredPairs(stores, measured, np.zeros(len(measured), dtype=bool)),
        counts=counts,
    )


def _validation(config: PreferenceDataConfig, cache: Cache, say: Callable[[str], None]) -> list[PairStore]:
    """The pairs of `data.validation`, if it is set, which are only measured: neither sampled nor flipped."""
    if not config.validation:
        return []
    source = SourceConfig(path=config.validation)
    return [read_pairs(source, "validation", key="data.validation", skip_broken=config.skip_broken, cache=cache, say=say).pairs]


def named_sources(config: PreferenceDataConfig) -> dict[str, SourceConfig]:
    """All sources by name: `paths` under the names of their files (the second of the same name as name-2), then `sources`."""
    named: dict[str, SourceConfig] = {}
    for path in config.paths:
        name = stem = dataset_name(path)
        number = 1
        while name in named or name in config.sources:
            number += 1
            name = f"{stem}-{number}"
        named[name] = SourceConfig(path=path)
    return named | config.sources


def flipped(num_pairs: int, share: float, *, seed: int) -> NDArray[np.bool_]:
    """Whether each pair's label is swapped, of shape (N,): exactly `round(share * num_pairs)` are."""
    mask = np.zeros(num_pairs, dtype=bool)
    mask[random.Random(f"flip {seed}").sample(range(num_pairs), round(share * num_pairs))] = True
    return mask


def _key(config: PreferenceDataConfig, name: str) -> str:
    return f"data.sources.{name}" if name in config.sources else "data.paths"


class _Mix:
    """The pairs of all sources, by their places, and which of them are still in the mix."""

    def __init__(self, sources: Mapping[str, PairStore]) -> None:
        self.names, self.stores = list(sources), list(sources.values())
        self.starts: NDArray[np.int64] = np.cumsum([0, *map(len, self.stores)])
        self.hashes_N32 = np.concatenate([store.hashes_N32 for store in self.stores])
        self._kept_N = np.ones(len(self.hashes_N32), dtype=bool)

    def places(self, name: str | None = None) -> NDArray[np.int64]:
        """The places of the pairs in the mix, of one source or of all."""
        if name is None:
            return np.flatnonzero(self._kept_N)
        number = self.names.index(name)
        start, end = self.starts[number : number + 2]
        return start + np.flatnonzero(self._kept_N[start:end])

    def num_by_source(self, places: NDArray[np.int64]) -> dict[str, int]:
        """How many of these places are of each source."""
        counts = np.bincount(np.searchsorted(self.starts, places, side="right") - 1, minlength=len(self.names))
        return dict(zip(self.names, counts.tolist(), strict=True))

    def deduplicate(self, say: Callable[[str], None]) -> dict[str, int]:
        """Keeps only the first of equal pairs over all sources; returns how many each source lost."""
        _, firsts = groups(self.hashes_N32[:, PAIR])
        self._kept_N[:] = False
        self._kept_N[firsts] = True
        num_dropped: dict[str, int] = {}
        for name, store in zip(self.names, self.stores, strict=True):
            num_dropped[name] = len(store) - len(self.places(name))
            if num_dropped[name]:
                say(f"dropped {num_dropped[name]} of {len(store)} pairs of {name} that are duplicates")
        return num_dropped

    def count_contradictions(self, say: Callable[[str], None]) -> int:
        """How many pairs also occur with chosen and rejected swapped; the two count as one."""
        hashes = self.hashes_N32[self.places()]
        _, firsts = groups(hashes[:, PAIR])
        distinct = hashes[firsts]
        numbers, _ = groups(np.concatenate([distinct[:, PAIR], distinct[:, SWAPPED]]))
        num = int(np.isin(numbers[len(distinct) :], numbers[: len(distinct)]).sum()) // 2
        if num:
            say(f"kept {num} pair(s) that contradict each other: the same answers to the same prompt, preferred both ways")
        return num

    def decontaminate(self, benchmarks: Mapping[str, Sequence[str]], mode: Decontaminate, say: Callable[[str], None]) -> Decontaminated:
        """Finds the pairs that overlap with benchmarks, and takes them out if `mode` says so."""
        views = {name: StoredPairs(self.stores, own := self.places(name), np.zeros(len(own), dtype=bool)) for name in self.names}

        def hits(name: str) -> Hits:
            number = self.names.index(name)
            return _among(stored_hits(self.stores[number], benchmarks), self.places(name) - self.starts[number])

        found = decontaminate(views, benchmarks, mode, hits, say)
        for name, mask in found.kept.items():
            self._kept_N[views[name].places_N[~mask]] = False
        return found


def _among(hits: Hits, rows: NDArray[np.int64]) -> Hits:
    """The hits of some rows, in order, by their number among these rows."""
    own = hits[np.isin(hits[:, 0], rows)]
    own[:, 0] = np.searchsorted(rows, own[:, 0])
    return own


def _weighted(mix: _Mix, weights: Mapping[str, float], seed: int) -> _Entries:
    """The pairs with their numbers of copies: `weight`, whose fraction is one more copy of a seeded share of them.

    The shares are nested, so a larger weight contains everything that a smaller one does; at least one pair of a source is left.
    """
    places: list[NDArray[np.int64]] = []
    copies: list[NDArray[np.int64]] = []
    for name, weight in weights.items():
        own, whole = mix.places(name), int(weight)
        num = np.full(len(own), whole)
        order = random.Random(f"weight {seed} {name}").sample(range(len(own)), len(own))
        num[order[: max(whole == 0, round((weight - whole) * len(own)))]] += 1
        places.append(own[num > 0])
        copies.append(num[num > 0])
    return _Entries(places_N=np.concatenate(places), copies_N=np.concatenate(copies))


def _shuffled(num: int, seed: str) -> NDArray[np.int64]:
    order = array("q", range(num))
    random.Random(seed).shuffle(order)
    return np.array(order, dtype=np.int64)


def _held_out(prompts_N2: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """Whether each entry is held out, by the hashes of their prompts; prompts are taken in order, each if it brings the number
    closer to the share.

    If all prompts differ, these are the first `round(share * n)`.
    """
    wanted = round(share * len(prompts_N2))
    numbers, firsts = groups(prompts_N2)
    sizes = np.bincount(numbers, minlength=len(firsts))
    taken = np.zeros(len(firsts), dtype=bool)
    num = 0
    for prompt in np.argsort(firsts).tolist():
        size = int(sizes[prompt])
        if abs(num + size - wanted) < abs(num - wanted):
            taken[prompt] = True
            num += size
    return taken[numbers]


def _counts_by_source(
    read: Mapping[str, ReadPairs],
    num_duplicates: Mapping[str, int],
    clean: Decontaminated,
    mix: _Mix,
    kept: NDArray[np.int64],
    held_out: NDArray[np.int64],
    training: NDArray[np.int64],
) -> dict[str, dict[str, Any]]:
    num_kept, num_out, num_training = map(mix.num_by_source, (kept, held_out, training))
    return {
        name: {
            "read": source.num_rows,
            "broken": source.num_broken,
            "equal": source.num_equal,
            "duplicates": num_duplicates.get(name, 0),
            "contaminated": {overlap.benchmark: overlap.num_pairs for overlap in clean.overlaps if overlap.source == name},
            "contaminated_dropped": clean.num_dropped[name],
            "kept": num_kept[name],
            "held_out": num_out[name],
            "training": num_training[name],
        }
        for name, source in read.items()
    }
