"""Drawing by all processes of a run, each its share of the prompts."""

from collections.abc import Sequence
from dataclasses import replace

from core.process.world import World
from core.records import Completion, Dialogue, Generator, Sampling


def draw_share(generator: Generator | None, prompts: Sequence[Dialogue], sampling: Sampling, world: World) -> list[list[Completion]]:
    """The completions of this process's share of the prompts, `world.shard(len(prompts))`. All processes call it.

    Each draws its own. If only the main process has a `generator` (None on all others), as with a server, that one draws for all.
    """
    own = world.shard(len(prompts))
    if world.size > 1 and any(world.all_gather(lambda: generator is None)):
        return world.from_main(lambda: _draw(generator, prompts, sampling))[own]
    return _draw(generator, prompts[own], replace(sampling, first=sampling.first + own.start))


def _draw(generator: Generator | None, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
    assert generator is not None
    return generator.generate(prompts, sampling)
