"""Holding a policy's tasks to a share of training time: which part of their prompts is measured, the same at every checkpoint."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.disk import BrokenFileError, read_json, write_json
from core.generators.shared import draw_share
from core.process.world import World
from core.records import Generator, Prompt, Sampling
from evalhooks.tasks.task import Task

FILE = "tasks_share.json"
"""Where a run keeps the share that its probe has found."""
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
        probe.world.from_main(lambda found=found: write_json(file, found))
    thinned = {name: replace(task, prompts=_drawn(name, task.prompts, found["share"])) for name, task in tasks.items()}
    if found["share"] < 1:
        sizes = ", ".join(f"{len(thinned[name].prompts)} of {len(task.prompts)} prompts of {name}" for name, task in tasks.items())
        probe.say(f"hooks.budget={budget.share:g}: every checkpoint is measured on {sizes}")
    return thinned


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


def _drawn(name: str, prompts: tuple[Prompt, ...], share: float) -> tuple[Prompt, ...]:
    count = max(1, int(share * len(prompts)))
    return tuple(prompts[place] for place in sorted(random.Random(f"budget {name}").sample(range(len(prompts)), count)))
