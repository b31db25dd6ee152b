"""Preference pairs for training: mixed from sources, cleaned, sampled, split and flipped."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.data.rows import dataset_name
from core.records import Answer, Dialogue, Preference
from rmtrain.config import PreferenceDataConfig, SourceConfig
from rmtrain.decontaminate import Decontaminated, decontaminate
from rmtrain.rows import ReadPairs, read_pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceData:
    """The pairs of a mix, those to train on and those held out, and counts of what happened to the rows that were read.

    `counts` is plain data for the run's record. Under `sources` it has, for each source, the rows read, those left out by
    reason, those kept, and how many of these are held out and trained on (repeats counted); next to it are totals.

    >>> PreferenceData(training=[], held_out=[], counts={"flipped": 0}).counts["flipped"]
    0
    """

    training: list[Preference]
    held_out: list[Preference]
    counts: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """A pair that the mix contains `copies` times, and the source it was read from, whatever source the row itself names."""

    pair: Preference
    origin: str
    copies: int


def load_preferences(
    config: PreferenceDataConfig, *, seed: int, benchmark_prompts: Mapping[str, Sequence[str]] = {}, say: Callable[[str], None] = print
) -> PreferenceData:
    """The training and held-out pairs of all sources; every draw has a seed of its own.

    The steps, in order: read; drop pairs with equal sides, duplicates and overlaps with `benchmark_prompts` (by benchmark);
    draw by weights below 1 and by `subsample`; split off the held-out share, by prompt; flip; repeat for weights above 1, so
    that all copies of a pair agree; shuffle. Held-out pairs are neither flipped nor repeated: accuracy is measured against
    the labels as given. `say` gets a line about everything that is left out. Raises `ValueError` as `rmtrain.rows.read_pairs`
    does, and if no pair is left to train on.
    """
    sources = named_sources(config)
    read = {
        name: read_pairs(source, name, key=_key(config, name), skip_broken=config.skip_broken, say=say) for name, source in sources.items()
    }
    unique, num_duplicates = _deduplicated(read, say) if config.deduplicate else ({name: r.pairs for name, r in read.items()}, {})
    num_contradictions = _count_contradictions(unique, say)
    clean = decontaminate(unique, benchmark_prompts, config.decontaminate, say)
    if not any(clean.pairs.values()):
        raise ValueError("every pair overlaps with a benchmark, so none is left to train on; set data.decontaminate=report.")

    entries = [entry for name, pairs in clean.pairs.items() for entry in _weighted(pairs, name, sources[name].weight, seed)]
    random.Random(f"shuffle {seed}").shuffle(entries)
    entries = entries[: max(1, round(config.subsample * len(entries)))]
    held_out = _held_out(entries, config.held_out)
    training = [entry for entry, is_out in zip(entries, held_out, strict=True) if not is_out]
    if not training:
        raise ValueError(f"data.held_out={config.held_out} leaves none of {len(entries)} pair(s) to train on; lower it.")
    if config.held_out and not any(held_out):
        say(f"data.held_out={config.held_out} holds out none of {len(entries)} pair(s): too few pairs, or too few different prompts")
    flipped = flip([entry.pair for entry in training], config.flip, seed=seed)
    repeated = [replace(entry, pair=pair) for entry, pair in zip(training, flipped, strict=True) for _ in range(entry.copies)]
    if len(repeated) > len(training):  # the copies of a pair are still next to each other
        random.Random(f"shuffle repeats {seed}").shuffle(repeated)

    kept_out = [entry for entry, is_out in zip(entries, held_out, strict=True) if is_out]
    counts = {
        "sources": _counts_by_source(read, num_duplicates, clean, entries, kept_out, repeated),
        "contradictions": num_contradictions,
        "training": len(repeated),
        "held_out": len(kept_out),
        "flipped": round(config.flip * len(training)),
    }
    return PreferenceData(training=[entry.pair for entry in repeated], held_out=[entry.pair for entry in kept_out], counts=counts)


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


def flip(pairs: Sequence[Preference], share: float, *, seed: int) -> list[Preference]:
    """The pairs, in the same order, with exactly `round(share * n)` labels swapped."""
    flipped = set(random.Random(f"flip {seed}").sample(range(len(pairs)), round(share * len(pairs))))
    return [replace(pair, chosen=pair.rejected, rejected=pair.chosen) if index in flipped else pair for index, pair in enumerate(pairs)]


def _key(config: PreferenceDataConfig, name: str) -> str:
    return f"data.sources.{name}" if name in config.sources else "data.paths"


def _deduplicated(read: Mapping[str, ReadPairs], say: Callable[[str], None]) -> tuple[dict[str, list[Preference]], dict[str, int]]:
    """The pairs by source, keeping only the first of equal ones over all sources, and how many each source lost."""
    seen: set[tuple[Dialogue, Answer, Answer]] = set()
    unique: dict[str, list[Preference]] = {}
    num_dropped: dict[str, int] = {}
    for name, source in read.items():
        unique[name] = []
        for pair in source.pairs:
            key = (pair.prompt, pair.chosen, pair.rejected)
            if key not in seen:
                seen.add(key)
                unique[name].append(pair)
        num_dropped[name] = len(source.pairs) - len(unique[name])
        if num_dropped[name]:
            say(f"dropped {num_dropped[name]} of {len(source.pairs)} pairs of {name} that are duplicates")
    return unique, num_dropped


def _count_contradictions(sources: Mapping[str, Sequence[Preference]], say: Callable[[str], None]) -> int:
    """How many pairs also occur with chosen and rejected swapped; the two count as one."""
    distinct = {(pair.prompt, pair.chosen, pair.rejected) for pairs in sources.values() for pair in pairs}
    num = sum((prompt, rejected, chosen) in distinct for prompt, chosen, rejected in distinct) // 2
    if num:
        say(f"kept {num} pair(s) that contradict each other: the same answers to the same prompt, preferred both ways")
    return num


def _weighted(pairs: Sequence[Preference], name: str, weight: float, seed: int) -> list[_Entry]:
    """The pairs with their numbers of copies: `weight`, whose fraction is one more copy of a seeded share of them.

    The shares are nested, so a larger weight contains everything that a smaller one does; at least one pair is left.
    """
    whole = int(weight)
    order = random.Random(f"weight {seed} {name}").sample(range(len(pairs)), len(pairs))
    more = set(order[: max(whole == 0, round((weight - whole) * len(pairs)))])
    copies = (whole + (place in more) for place in range(len(pairs)))
    return [_Entry(pair=pair, origin=name, copies=num) for pair, num in zip(pairs, copies, strict=True) if num]


def _held_out(entries: Sequence[_Entry], share: float) -> list[bool]:
    """Whether each entry is held out; prompts are taken in order, each if it brings the number closer to the share.

    If all prompts differ, these are the first `round(share * n)`.
    """
    wanted = round(share * len(entries))
    groups: dict[Dialogue, int] = defaultdict(int)
    for entry in entries:
        groups[entry.pair.prompt] += 1
    taken: set[Dialogue] = set()
    num = 0
    for prompt, size in groups.items():
        if abs(num + size - wanted) < abs(num - wanted):
            taken.add(prompt)
            num += size
    return [entry.pair.prompt in taken for entry in entries]


def _counts_by_source(
    read: Mapping[str, ReadPairs],
    num_duplicates: Mapping[str, int],
    clean: Decontaminated,
    kept: Sequence[_Entry],
    held_out: Sequence[_Entry],
    training: Sequence[_Entry],
) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "read": source.num_rows,
            "broken": source.num_broken,
            "equal": source.num_equal,
            "duplicates": num_duplicates.get(name, 0),
            "contaminated": {overlap.benchmark: overlap.num_pairs for overlap in clean.overlaps if overlap.source == name},
            "contaminated_dropped": clean.num_dropped[name],
            "kept": sum(entry.origin == name for entry in kept),
            "held_out": sum(entry.origin == name for entry in held_out),
            "training": sum(entry.origin == name for entry in training),
        }
        for name, source in read.items()
    }
