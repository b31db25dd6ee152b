"""Downstream tasks at the checkpoints of a policy, and what its reward is worth on its own answers."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from types import MappingProxyType

from core.generators.local import TransformersGenerator
from core.generators.shared import draw_share
from core.hooks.hook import RunParts, SharedHook, eval_file, read_evaluation
from core.process.precision import without_autocast
from core.process.world import World
from core.progress import NoProgress, Progress
from core.records import CheckpointSaved, Generator, Prompt, Sampling, Scorer, num_truncated
from core.runs.samples import write_samples
from core.scorers.verifier import try_verifier
from evalhooks.budget import Budget, Probe, within_budget
from evalhooks.choices import choice_metrics
from evalhooks.on_policy import gap, lengths, on_policy
from evalhooks.rewardbench.finite import REMEDY
from evalhooks.samples import NUM_PROMPTS, answered
from evalhooks.selection.biases import style_of
from evalhooks.tasks.results import Answered, at_equal_lengths, downstream, in_turn
from evalhooks.tasks.task import Task, judged

SECONDS = "hooks/tasks_seconds"
"""What the tasks of a policy took at a checkpoint, logged with a budget."""


class PolicyHook(SharedHook):
    """Downstream tasks of a policy, and how well its reward still separates right from wrong on the policy's own outputs.

    Answers are drawn by the run's generator, or by transformers in a loop that has none; every process draws, judges and scores those to
    its share of the prompts. `scorer` must be able to score the tasks' prompts, which a verifier of training prompts cannot. With a
    `budget`, a part of the prompts is measured (`evalhooks.budget`). Of multiple choice every process measures its share too
    (`evalhooks.choices`). `static` holds metrics that do not change, such as those of `static_scores`; they are logged at every
    checkpoint with the others. Answers are kept as samples: to the tasks' first prompts, or without tasks to the first of `prompts`,
    scored by `prompt_scorer`. `style/*` and `bias/*` say how the answers look and what the reward pays for in them
    (`evalhooks.selection.biases`). `on_policy/truncated` is the share of answers that reward models cut to their length limit, logged if
    any could.
    Raises `ValueError` for a verifier that does not work on the first prompt of its task.
    """

    def __init__(
        self,
        *,
        tasks: Mapping[str, Task],
        sampling: Sampling,
        scorer: Scorer | None = None,
        static: Mapping[str, float] = MappingProxyType({}),
        prompts: Sequence[Prompt] = (),
        prompt_scorer: Scorer | None = None,
        budget: Budget | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.tasks = {name: task for name, task in tasks.items() if task.choices is None}
        self.choices = {name: task for name, task in tasks.items() if task.choices is not None}
        self.sampling, self.scorer, self.static, self.say = sampling, scorer, static, say
        self.prompts, self.prompt_scorer, self.budget = prompts, prompt_scorer, budget
        self._said: set[str] = set()
        self._is_fitted = False
        for task in self.tasks.values():
            try_verifier(task.verifier, task.prompts[0])

    def measure(self, event: CheckpointSaved, parts: RunParts) -> Mapping[str, float]:
        if not self.tasks and not self.choices and not self.prompts:
            return dict(self.static)
        generator, world = parts.generator, parts.world
        if generator is None and world.size == 1 and (self.tasks or self.prompts):
            generator = TransformersGenerator(event.model, event.tokenizer)
        if not self.tasks:
            self._sample_prompts(event, generator, world)
        if not self.tasks and not self.choices:
            return dict(self.static)
        self._fit_into_budget(event, generator, parts)
        began = time.monotonic()
        measured: dict[str, Answered] = {}
        total = sum(len(task.prompts) for task in (*self.tasks.values(), *self.choices.values()))
        self.progress.start(f"tasks, step {event.step}", total, unit="prompt")
        for name, task in self.tasks.items():
            measured[name] = self._shared_out(task, generator, world)
            self.progress.advance(len(task.prompts))
        chosen = self._chosen(event, self.choices, self.progress, parts)
        self.progress.finish()
        cost = {SECONDS: time.monotonic() - began} if self.budget is not None else {}
        return world.from_main(lambda: self._metrics(event, measured, chosen) | cost)

    def _fit_into_budget(self, event: CheckpointSaved, generator: Generator | None, parts: RunParts) -> None:
        """Leaves out the prompts that the budget does not pay for, at the first checkpoint of a session."""
        if self.budget is None or self._is_fitted:
            return

        def measure(task: Task) -> object:
            if task.choices is None:
                return self._shared_out(task, generator, parts.world)
            return self._chosen(event, {task.name: task}, NoProgress(), parts)

        probe = Probe(generator=generator, measure=measure, world=parts.world, say=parts.told(self.say))
        found = within_budget(self.budget, {**self.tasks, **self.choices}, probe, event.run_dir)
        self.tasks = {name: found[name] for name in self.tasks}
        self.choices = {name: found[name] for name in self.choices}
        self._is_fitted = True

    def _chosen(self, event: CheckpointSaved, tasks: Mapping[str, Task], progress: Progress, parts: RunParts) -> dict[str, float]:
        say = self._say_once if parts.world.is_main else lambda line, about: None
        return choice_metrics(event, tasks, parts.world, progress, say)

    def _shared_out(self, task: Task, generator: Generator | None, world: World) -> Answered:
        return in_turn(world.all_gather(lambda: self._own_share(task, generator, world)))

    def _own_share(self, task: Task, generator: Generator | None, world: World) -> Answered:
        prompts = task.prompts[world.shard(len(task.prompts))]
        answers = draw_share(generator, [prompt.dialogue for prompt in task.prompts], self.sampling, world)
        before, scores = num_truncated(self.scorer) if self.scorer else None, list[list[float]]()
        if self.scorer is not None:
            texts = [[completion.text for completion in row] for row in answers]
            with without_autocast():
                scores = self.scorer.score([prompt.dialogue for prompt in prompts], texts)
        cut = 0 if self.scorer is None or before is None else (num_truncated(self.scorer) or 0) - before
        return Answered(answers=answers, judged=judged(task.verifier, prompts, answers), scores=scores, num_truncated=cut)

    def _metrics(self, event: CheckpointSaved, tasks: Mapping[str, Answered], chosen: Mapping[str, float]) -> dict[str, float]:
        drawn = {name: found.judged for name, found in tasks.items()}
        metrics = downstream(drawn, chosen, [*self.tasks, *self.choices], self._say_once) | at_equal_lengths(self.tasks, tasks)
        if not tasks:
            return {**self.static, **metrics}
        samples = [
            sample
            for name, found in tasks.items()
            for sample in answered(name, self.tasks[name].prompts, found.answers, scores=found.scores, correct=found.judged.correct)
        ]
        write_samples(event.run_dir, event.step, "answers", samples)
        whole = in_turn(list(tasks.values()))
        measured = lengths(whole.answers) | on_policy(*self._finite(whole.scores, whole.judged.correct, event.step))
        prompts = [prompt.dialogue for name in tasks for prompt in self.tasks[name].prompts]
        texts = [[completion.text for completion in row] for row in whole.answers]
        measured |= style_of(prompts, texts, whole.scores, whole.judged.correct)
        if self.scorer and num_truncated(self.scorer) is not None:
            measured["on_policy/truncated"] = whole.num_truncated / sum(map(len, whole.answers))
        return {**self.static, **metrics, **measured, **gap(measured, self._start(event, measured))}

    def _say_once(self, line: str, about: str) -> None:
        if about not in self._said:
            self._said.add(about)
            self.say(line)

    def _sample_prompts(self, event: CheckpointSaved, generator: Generator | None, world: World) -> None:
        """Keeps answers to the first of `prompts`, where there is no task whose answers could be kept."""
        if not (chosen := self.prompts[:NUM_PROMPTS]):
            return
        dialogues = [prompt.dialogue for prompt in chosen]
        shares = world.all_gather(lambda: draw_share(generator, dialogues, self.sampling, world))
        completions = [row for share in shares for row in share]

        def keep() -> None:
            scores: list[list[float]] = []
            if self.prompt_scorer is not None:
                with without_autocast():
                    scores = self.prompt_scorer.score(dialogues, [[completion.text for completion in row] for row in completions])
            write_samples(event.run_dir, event.step, "answers", answered("", chosen, completions, scores=scores))

        world.from_main(keep)

    def _finite(
        self, scores: list[list[float]], labels: list[list[float | None]], step: int
    ) -> tuple[list[list[float]], list[list[float]]]:
        """The scores and labels of the prompts all of whose answers have a label and finite scores; `say` reports those that are not."""
        if not scores:
            return [], []
        known = [[label for label in row if label is not None] for row in labels]
        prompts = [prompt for task in self.tasks.values() for prompt in task.prompts]
        finite = [all(map(math.isfinite, row)) for row in scores]
        if broken := [f"{prompt.task}/{prompt.id}" for prompt, is_finite in zip(prompts, finite, strict=True) if not is_finite]:
            self.say(
                f"step {step}: the reward of answers to {len(broken)} of {len(prompts)} prompts is NaN or infinite, so on_policy/* leaves "
                f"them out; the first is {broken[0]}; {REMEDY}"
            )
        kept = [is_finite and len(row) == len(own) for is_finite, row, own in zip(finite, known, labels, strict=True)]
        return [*compress(scores, kept)], [*compress(known, kept)]

    def _start(self, event: CheckpointSaved, measured: Mapping[str, float]) -> Mapping[str, float]:
        """This hook's metrics for the untrained policy, read from disk so that a resumed run has them too."""
        if event.step == 0:
            return measured
        return read_evaluation(event.run_dir, 0) if eval_file(event.run_dir, 0).exists() else {}
