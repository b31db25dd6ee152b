"""Drawing by all processes of a run, each its share of the prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from core.process.world import World
from core.records import BatchGenerator, Completion, Dialogue, Generator, Sampling


def draw_share(generator: Generator | None, prompts: Sequence[Dialogue], sampling: Sampling, world: World) -> list[list[Completion]]:
    """The completions of this process's share of the prompts, `world.shard(len(prompts))`. All processes call it.

    Each draws its own. If only the main process has a `generator` (None on all others), as with a server, that one draws for all.
    """
    own = world.shard(len(prompts))
    if world.size > 1 and any(world.all_gather(lambda: generator is None)):
        return world.from_main(lambda: _draw(generator, prompts, sampling))[own]
    return _draw(generator, prompts[own], replace(sampling, first=sampling.first + own.start))


def draw_batches(
    generator: Generator | None, prompts: Sequence[Dialogue], places: Sequence[int], sampling: Sampling, world: World, *, batch_size: int
) -> Iterator[tuple[list[int], list[list[Completion]]]]:
    """The completions of the prompts at `places`, ascending, a batch at a time as they are drawn: places of the batch and its completions.

    All processes call it, and all get every batch. Where the generator cannot hand over batches, or several processes share the
    drawing as in `draw_share`, `batch_size` prompts of each process are drawn at a time.
    """
    if world.size == 1 and isinstance(generator, BatchGenerator):
        for batch, answers in generator.generate_batches([prompts[place] for place in places], sampling, places):
            yield [places[i] for i in batch], answers
        return
    for first, last in _runs(places, batch_size * world.size):
        own = replace(sampling, first=sampling.first + first)
        shares = world.all_gather(lambda own=own, asked=prompts[first:last]: draw_share(generator, asked, own, world))
        yield list(range(first, last)), [row for share in shares for row in share]


def _runs(places: Sequence[int], longest: int) -> Iterator[tuple[int, int]]:
    """The ascending places as ranges of neighbours, each of at most `longest`.

    >>> list(_runs([0, 1, 2, 5], 2))
    [(0, 2), (2, 3), (5, 6)]
    """
    start = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or places[end] != places[end - 1] + 1 or end - start == longest:
            yield places[start], places[end - 1] + 1
            start = end


def _draw(generator: Generator | None, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
    assert generator is not None
    return generator.generate(prompts, sampling)
