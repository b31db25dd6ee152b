"""Scoring by all processes of a run, each its share of the prompts."""

from collections.abc import Sequence

from core.data.chat import UnreadableError
from core.process.world import World
from core.records import Dialogue, Scorer


class SharedScorer:
    """A scorer that all processes hold and call together with the same prompts: each scores its share, and all get all scores."""

    def __init__(self, scorer: Scorer, world: World) -> None:
        self.scorer, self.world = scorer, world

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of scores per prompt, one score per completion, in the given order."""
        own = self.world.shard(len(prompts))

        def scored() -> list[list[float]]:
            try:
                return self.scorer.score(prompts[own], completions[own])
            except UnreadableError as error:
                raise error.moved(own.start, len(prompts)) from error

        return [row for share in self.world.all_gather(scored) for row in share]
