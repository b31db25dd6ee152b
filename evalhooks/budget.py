"""Holding the hooks to a share of training time: which part of their rows is measured, the same at every checkpoint.

A policy's tasks are timed by a probe; what a reward model's hooks score is counted (`evalhooks.row_share`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.disk import write_json
from core.generators.shared import draw_share
from core.hooks.run_context import RunContext
from core.process.world import World
from core.records import Generator, Prompt, Sampling
from core.runs.warnings import MIN_ROWS, few_rows
from core.text import duration
from evalhooks.measured_rows import FILE, ROWS_FILE, SIZES, kept_share, listed
from evalhooks.row_share import RowShare, Scored, Trained, budget_exceeded, drawn, part_measured, row_share
from evalhooks.tasks.task import Task

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
    file, began, once = run_dir / FILE, probe.clock(), ""
    found = probe.world.from_main(lambda: kept_share(file, probe.say))
    if found is None:
        found = _probed(budget, tasks, probe)
        once = f"; finding that out took {duration(probe.clock() - began)}, once"
    thinned = {name: replace(task, prompts=drawn(name, task.prompts, found["share"])) for name, task in tasks.items()}
    sizes = {name: (len(thinned[name].prompts), len(task.prompts)) for name, task in tasks.items()}
    if found["share"] < 1:
        probe.say(f"hooks.budget={budget.share:g}: every checkpoint is measured on {listed(sizes, 'prompts')}{once}")
        few = {name: measured for name, (measured, total) in sizes.items() if total >= MIN_ROWS}
        if warning := few_rows(few, what="what hooks.budget leaves", key="hooks.budget", remedy="raise it, or lower num_checkpoints"):
            probe.say(warning.line)
    kept = {**found, SIZES: {f"downstream/{name}": size for name, size in sizes.items()}}
    probe.world.from_main(lambda: write_json(file, kept))
    return thinned


def rows_within_budget(budget: float, trained: Callable[[], Trained], scored: Scored, context: RunContext) -> Scored:
    """What a reward model's hooks score of `scored` at every checkpoint, for at most the share `budget` of the time of training.

    `trained` is asked what training passes through the model, unless the run's folder has the share already, as after a resume. Every
    domain of a benchmark and every task keeps a row, and where that costs more than the budget a warning says so. All processes call it.
    """
    file = context.dir / ROWS_FILE

    def find() -> RowShare:
        kept = kept_share(file, context.say)
        return row_share(budget, trained(), scored) if kept is None else RowShare(share=float(kept["share"]), cost=0.0)

    found = context.world.from_main(find)
    measured = scored.drawn(found.share) if found.share < 1 else scored
    sizes = {name: (measured.sizes[name], size) for name, size in scored.sizes.items()}
    context.warn(part_measured(budget, found, sizes), budget_exceeded(budget, found))
    context.world.from_main(lambda: write_json(file, {"share": found.share, SIZES: sizes}))
    return measured


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
    costs = {name: seconds_of(task) for name, task in tasks.items()}
    between = budget.num_episodes * episode
    share = min(1.0, budget.share * between / max(sum(costs.values()), 1e-9))
    least = sum(costs[name] / len(task.prompts) for name, task in tasks.items())
    if least > budget.share * between:
        probe.say(
            f"hooks.budget={budget.share:g} cannot be held: a prompt of every task takes about {least / max(between, 1e-9):.0%} of the "
            "time that training draws answers between two checkpoints; lower num_checkpoints, or leave out tasks"
        )
    found = {"share": share, "seconds_per_episode": episode, "seconds_of_all_prompts": sum(costs.values())}
    return probe.world.from_main(lambda: found)
