"""Holding the hooks to a share of training time: which part of their rows is measured, the same at every checkpoint.

A policy's tasks are timed by a probe. What a reward model's hooks score is counted instead: training and scoring pass the same kind of
text through the same model, so that texts tell what the hooks cost, and models trained by one recipe are measured on the same rows.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from bon.rows import Pools
from core.disk import BrokenFileError, read_json, write_json
from core.generators.shared import draw_share
from core.hooks.run_context import RunContext
from core.process.world import World
from core.records import BenchmarkRow, Dialogue, Generator, Preference, Prompt, Sampling
from core.runs.samples import text_of
from core.runs.warnings import RunWarning
from evalhooks.measured_rows import SIZES
from evalhooks.rewardbench.rows import sample_rows
from evalhooks.tasks.task import Task

FILE = "tasks_share.json"
"""Where a policy's run keeps the share that its probe has found, and how many prompts that leaves of each task."""
ROWS_FILE = "rows_share.json"
"""Where a reward model's run keeps the same of the rows that its hooks score."""
PASSES, LORA_PASSES = 3, 2
"""What training a text costs in passes of scoring: one forward and, of twice its size, one backward; under an adapter of once its size."""
COUNTED = 1000
"""Training pairs whose lengths stand for those of all."""
T = TypeVar("T")

PROBED = 8
"""Prompts of training and of each task that the probe answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The share of training time that tasks may take, with what training draws between two checkpoints.

    >>> Budget(share=0.1, num_episodes=512, prompts=[], sampling=Sampling()).share
    0.1
    """

    share: float
    num_episodes: int
    prompts: Sequence[Prompt]
    sampling: Sampling


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What a probe draws training's episodes with, how it measures a task, and whom it tells what it finds; all processes use it."""

    generator: Generator | None
    measure: Callable[[Task], object]
    world: World
    say: Callable[[str], None] = print
    clock: Callable[[], float] = time.monotonic


def within_budget(budget: Budget, tasks: Mapping[str, Task], probe: Probe, run_dir: Path) -> dict[str, Task]:
    """The tasks with as many of their prompts, drawn by a fixed seed, as the budget allows; all processes call it.

    A probe times answers to a few prompts of training and of each task, once for a run: what it finds is kept in the run's folder, so
    that every checkpoint is measured on the same prompts, after a resume too. Drawing is the least that training an episode costs, so
    that the tasks take less of the time rather than more. Every task keeps a prompt.
    """
    file = run_dir / FILE
    found = probe.world.from_main(lambda: _kept(file, probe.say))
    if found is None:
        found = _probed(budget, tasks, probe)
    thinned = {name: replace(task, prompts=_drawn(name, task.prompts, found["share"])) for name, task in tasks.items()}
    sizes = {name: (len(thinned[name].prompts), len(task.prompts)) for name, task in tasks.items()}
    if found["share"] < 1:
        probe.say(f"hooks.budget={budget.share:g}: every checkpoint is measured on {_listed(sizes, 'prompts')}")
    kept = {**found, SIZES: {f"downstream/{name}": size for name, size in sizes.items()}}
    probe.world.from_main(lambda: write_json(file, kept))
    return thinned


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
        """About this share of every part by a fixed seed: of each domain or subset of a benchmark, of each task, of held-out pairs."""
        return Scored(
            rewardbench2=sample_rows(self.rewardbench2, share, 0),
            rewardbench1=sample_rows(self.rewardbench1, share, 0),
            pools={task: _drawn(task, rows, share) for task, rows in self.pools.items()},
            held_out=_drawn(HELD_OUT, self.held_out, share),
        )

    def texts(self) -> Iterator[tuple[Dialogue, Sequence[str]]]:
        """Every prompt with its completions."""
        for row in (*self.rewardbench2, *self.rewardbench1):
            yield row.dialogue, row.completions
        for row in chain.from_iterable(self.pools.values()):
            yield row.prompt, row.completions
        for pair in self.held_out:
            yield _texts_of(pair)


HELD_OUT = "held_out"
"""What held-out pairs are called among the parts of what is scored."""


def rows_within_budget(
    budget: float, trained: Sequence[Preference], scored: Scored, context: RunContext, *, epochs: float, passes: int = PASSES
) -> Scored:
    """What a reward model's hooks score of `scored` at every checkpoint, for at most the share `budget` of the time of training.

    `trained` are the pairs of an epoch, `epochs` those between two checkpoints. Every domain of a benchmark and every task keeps a row.
    The share that is found is kept in the run's folder and used again after a resume. All processes call it.
    """
    file = context.dir / ROWS_FILE

    def find() -> float:
        kept = _kept(file, context.say)
        return _share(trained, scored, budget * passes * epochs) if kept is None else float(kept["share"])

    share = context.world.from_main(find)
    drawn = scored.drawn(share) if share < 1 else scored
    sizes = {name: (drawn.sizes[name], size) for name, size in scored.sizes.items()}
    if share < 1:
        text = f"hooks.budget={budget:g}: every checkpoint is measured on {_listed(sizes, 'rows')}"
        context.warn(RunWarning(what="rows_within_budget", key="hooks.budget", text=text, numbers={"share": share}))
    context.world.from_main(lambda: write_json(file, {"share": share, SIZES: sizes}))
    return drawn


def _share(trained: Sequence[Preference], scored: Scored, worth: float) -> float:
    """The share of what is scored that costs `worth` passes over the training pairs."""
    step = max(1, len(trained) // COUNTED)
    few = [_texts_of(trained[place]) for place in range(0, len(trained), step)]
    training, scoring = _Costs.of(few), _Costs.of(scored.texts())
    worth *= len(trained) / max(1, len(few))
    # Padded, a prompt passes once for each completion. Which of the two a model does is not known yet, so the dearer counts.
    found = min(worth * training.shared / max(1, scoring.shared), worth * training.padded / max(1, scoring.padded))
    return min(1.0, max(found, 1e-9))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Costs:
    """Characters that pass through a model, where completions share the pass of their prompt and where each has its own."""

    shared: int
    padded: int

    @classmethod
    def of(cls, texts: Iterable[tuple[Dialogue, Sequence[str]]]) -> "_Costs":
        shared = padded = 0
        for prompt, completions in texts:
            asked, answered = sum(len(turn.content) for turn in prompt), sum(map(len, completions))
            shared, padded = shared + asked + answered, padded + asked * len(completions) + answered
        return cls(shared=shared, padded=padded)


def _texts_of(pair: Preference) -> tuple[Dialogue, Sequence[str]]:
    return pair.prompt, (text_of(pair.chosen), text_of(pair.rejected))


def _listed(sizes: Mapping[str, tuple[int, int]], what: str) -> str:
    return ", ".join(f"{measured} of {total} {what} of {name}" for name, (measured, total) in sizes.items())


def _probed(budget: Budget, tasks: Mapping[str, Task], probe: Probe) -> dict[str, float]:
    training = budget.prompts[:PROBED]

    def draw(prompts: Sequence[Prompt], sampling: Sampling) -> object:
        dialogues = [prompt.dialogue for prompt in prompts]
        return probe.world.all_gather(lambda: draw_share(probe.generator, dialogues, sampling, probe.world))

    def seconds(work: Callable[[], object]) -> float:
        began = probe.clock()
        work()
        return probe.clock() - began

    def seconds_of(task: Task) -> float:
        few = replace(task, prompts=task.prompts[:PROBED])
        return seconds(lambda: probe.measure(few)) * len(task.prompts) / len(few.prompts)

    draw(training[:1], replace(budget.sampling, max_new_tokens=1))  # what only the first call costs
    episode = seconds(lambda: draw(training, budget.sampling)) / len(training)
    cost = sum(map(seconds_of, tasks.values()))
    share = min(1.0, budget.share * budget.num_episodes * episode / max(cost, 1e-9))
    return probe.world.from_main(lambda: {"share": share, "seconds_per_episode": episode, "seconds_of_all_prompts": cost})


def kept_sizes(run_dir: Path) -> dict[str, Any]:
    """For a run's record: the rows that were measured and all rows, by benchmark or task; empty where there was no budget."""
    file = next((run_dir / name for name in (FILE, ROWS_FILE) if (run_dir / name).exists()), None)
    found = None if file is None else _kept(file, lambda line: None)
    return {SIZES: found[SIZES]} if found and SIZES in found else {}


def _kept(file: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """What an earlier session's probe found; None where there is none that can be read."""
    if not file.exists():
        return None
    try:
        found = read_json(file, remedy="the probe is made again")
        if not 0 < float(found["share"]) <= 1:
            raise ValueError(f"share is {found['share']}")
    except BrokenFileError as error:
        say(str(error))
        return None
    except (KeyError, TypeError, ValueError) as error:
        say(f"{file} holds no share of prompts ({error}); the probe is made again.")
        return None
    return found


def _drawn(name: str, rows: Sequence[T], share: float) -> tuple[T, ...]:
    count = min(len(rows), max(1, int(share * len(rows))))
    return tuple(rows[place] for place in sorted(random.Random(f"budget {name}").sample(range(len(rows)), count)))
