"""The share of the rows that a budget leaves a reward model's hooks, by counting what they cost: a dry run can tell it without torch.

Training and scoring pass the same kind of text through the same model, so that texts tell what the hooks cost, and models trained by one
recipe are measured on the same rows. Rows are drawn in one order, so that a model that is trained for less is measured on some of those.

Shapes: N pairs.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from bon.rows import Pools
from core.records import BenchmarkRow, Dialogue, Preference
from core.runs.samples import text_of
from core.runs.warnings import RunWarning
from evalhooks.measured_rows import HELD_OUT, listed
from evalhooks.rewardbench.rows import nested_rows

PASSES, LORA_PASSES = 3, 2
"""What training a text costs in passes of scoring: one forward and, of twice its size, one backward; under an adapter of once its size."""
COUNTED = 1000
"""Training pairs whose lengths stand for those of all."""
LEAST = 1e-9
"""The share that leaves one row of every part."""
HALVINGS = 20
"""Steps of the search for the largest share that is paid for: a millionth is less than a row."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What a reward model's hooks score at a checkpoint.

    >>> Scored(rewardbench2=(), rewardbench1=(), pools={}, held_out=()).sizes
    {}
    """

    rewardbench2: Sequence[BenchmarkRow]
    rewardbench1: Sequence[BenchmarkRow]
    pools: Pools
    held_out: Sequence[Preference]

    @property
    def sizes(self) -> dict[str, int]:
        """The number of rows of each part that there is."""
        parts = {"rewardbench2": self.rewardbench2, "rewardbench1": self.rewardbench1, HELD_OUT: self.held_out}
        return {name: len(rows) for name, rows in (parts | {f"bon/{task}": rows for task, rows in self.pools.items()}).items() if rows}

    def drawn(self, share: float) -> "Scored":
        """About this share of each domain or subset of a benchmark, of each task and of the pairs; a smaller share is part of a larger."""
        return Scored(
            rewardbench2=nested_rows(self.rewardbench2, share),
            rewardbench1=nested_rows(self.rewardbench1, share),
            pools={task: drawn(task, rows, share) for task, rows in self.pools.items()},
            held_out=drawn(HELD_OUT, self.held_out, share),
        )

    def texts(self) -> Iterator[tuple[Dialogue, Sequence[str]]]:
        """Every prompt with its completions."""
        for row in (*self.rewardbench2, *self.rewardbench1):
            yield row.dialogue, row.completions
        for row in chain.from_iterable(self.pools.values()):
            yield row.prompt, row.completions
        for pair in self.held_out:
            yield _texts_of(pair)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a reward model trains on between two checkpoints: the pairs of an epoch, and how many `epochs` there are between the two.

    `shares_N` is the share of each pair's tokens that is trained on: 0 where the pair is dropped, below 1 where its prompt is cut.

    >>> Trained(pairs=[Preference(prompt=(), chosen="yes", rejected="no")], shares_N=[1.0], epochs=0.5).costs.shared
    7.5
    """

    pairs: Sequence[Preference]
    shares_N: Sequence[float]
    epochs: float
    passes: int = PASSES

    @property
    def costs(self) -> "Costs":
        """In characters that pass through the model forward."""
        step = max(1, len(self.pairs) // COUNTED)
        places = range(0, len(self.pairs), step)
        found = [Costs.of([_texts_of(self.pairs[place])]).times(float(self.shares_N[place])) for place in places]
        return sum(found, Costs()).times(self.epochs * self.passes * len(self.pairs) / max(1, len(places)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Characters that pass through a model, where completions share the pass of their prompt and where each has its own."""

    shared: float = 0
    padded: float = 0

    @classmethod
    def of(cls, texts: Iterable[tuple[Dialogue, Sequence[str]]]) -> "Costs":
        """What it costs to score these prompts with their completions."""
        shared = padded = 0
        for prompt, completions in texts:
            asked, answered = sum(len(turn.content) for turn in prompt), sum(map(len, completions))
            shared, padded = shared + asked + answered, padded + asked * len(completions) + answered
        return cls(shared=shared, padded=padded)

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(shared=self.shared + other.shared, padded=self.padded + other.padded)

    def times(self, factor: float) -> "Costs":
        """As often as that."""
        return Costs(shared=factor * self.shared, padded=factor * self.padded)

    def beside(self, other: "Costs") -> float:
        """As a share of the other. Which of the two a model does is not known before it is loaded, so the dearer counts."""
        return max(self.shared / max(1, other.shared), self.padded / max(1, other.padded))


@dataclass(frozen=True, kw_only=True, slots=True)
class RowShare:
    """The share of the rows that is scored, and what scoring them costs as a share of the time of training between two checkpoints.

    >>> RowShare(share=0.02, cost=0.1).share
    0.02
    """

    share: float
    cost: float


def row_share(budget: float, trained: Trained, scored: Scored) -> RowShare:
    """The largest share of what is scored whose rows, in whole ones and at least one of every part, cost at most `budget`.

    If one row of every part costs more, these are left all the same.
    """
    training = trained.costs

    def cost(share: float) -> float:
        return Costs.of(scored.drawn(share).texts()).beside(training)

    whole = RowShare(share=1.0, cost=Costs.of(scored.texts()).beside(training))
    if whole.cost <= budget:
        return whole
    least, most = RowShare(share=LEAST, cost=cost(LEAST)), 1.0
    for _ in range(HALVINGS if least.cost <= budget else 0):
        share = (least.share + most) / 2
        if (found := cost(share)) <= budget:
            least = RowShare(share=share, cost=found)
        else:
            most = share
    return least


def part_measured(budget: float, found: RowShare, sizes: Mapping[str, tuple[int, int]]) -> RunWarning | None:
    """That rows are left out; `sizes` are the rows measured and all rows of each part."""
    if found.share == 1:
        return None
    text = f"hooks.budget={budget:g}: every checkpoint is measured on {listed(sizes, 'rows')}"
    return RunWarning(what="rows_within_budget", key="hooks.budget", text=text, numbers={"share": found.share})


def budget_exceeded(budget: float, found: RowShare) -> RunWarning | None:
    """That the least there is to measure costs more than the budget."""
    if found.cost <= budget:
        return None
    text = (
        f"hooks.budget={budget:g} cannot be held: a row of every domain and task costs about {found.cost:.0%} of the time of training "
        "between two checkpoints; have fewer of these (num_checkpoints, checkpoint_every), leave out a benchmark or pools, or train on "
        "more pairs."
    )
    return RunWarning(what="budget_exceeded", key="hooks.budget", text=text, numbers={"cost": found.cost})


def drawn(name: str, rows: Sequence[T], share: float) -> tuple[T, ...]:
    """This share of the rows, rounded down but one at least, the first of an order by a seed that is the name."""
    count = min(len(rows), max(1, int(share * len(rows))))
    order = random.Random(f"budget {name}").sample(range(len(rows)), len(rows))
    return tuple(rows[place] for place in sorted(order[:count]))


def _texts_of(pair: Preference) -> tuple[Dialogue, Sequence[str]]:
    return pair.prompt, (text_of(pair.chosen), text_of(pair.rejected))
