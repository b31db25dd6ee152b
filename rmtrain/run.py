"""A run of reward-model training: saving, the hooks at each checkpoint, the best checkpoint, resuming."""

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from core.disk import is_complete
from core.engines.resume import STATE, forget_states, newest_step
from core.engines.saving import Saver, Weights
from core.hooks.hook import best_step, read_evaluations, rewind
from core.hooks.placement import Evaluations, InlineEvaluations, InMemory, Saved, SeparateEvaluations, missing_evaluations
from core.hooks.run_context import RunContext
from core.models.export import export_formats, export_model
from core.models.load import DTYPES
from core.process.signals import Preempted, Preemption
from core.records import AXIS
from core.runs.checkpoints import SaveTimer, point_best, step_folder
from core.runs.retention import Keep, prune
from core.runs.warnings import few_held_out
from rmtrain.batches import planned_steps
from rmtrain.log import TrainingLog
from rmtrain.session import RMSession, StepResult

BEST_METRICS = ("rewardbench2/overall", "rewardbench2/mean_of_", "held_out/accuracy")
"""If the configuration names no metric, the best checkpoint is chosen by the first of these that was measured.

The second one begins the names of means over some of the domains, of which the one measured most often counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RMResult:
    """The last and the best checkpoint with their steps and metrics, and the numbers of pairs trained on and of others.

    Those are pairs too long, pairs cut to fit, pairs whose sides are the same tokens, and pairs that the chat template refuses.

    `best_metric` names the metric that the best was chosen by; it is empty if none of the candidates was measured. Training
    took `train_s` seconds in this process, `hooks_s` of them waiting for the hooks.
    """

    checkpoint: Path
    step: int
    metrics: Mapping[str, float]
    best_step: int
    best_metric: str
    best: Mapping[str, float]
    num_pairs: int
    num_dropped: int
    num_cut: int
    num_equal: int
    num_broken: int
    train_s: float
    hooks_s: float


class RMRun:
    """What happens to a session's model between optimiser steps: it is saved, evaluated by the hooks, and restored."""

    def __init__(self, session: RMSession, context: RunContext, preemption: Preemption, *, separate: str | None) -> None:
        self.session, self.context, self.preemption = session, context, preemption
        if separate is None:
            context.show_hooks()
        self.planned = planned_steps(session.config, session.num_steps)
        """The steps whose checkpoints the hooks run on."""
        self.evaluations: Evaluations = (
            InlineEvaluations(context.hooks, context.tracker, session.engine.autocast, world=context.world)
            if separate is None
            else SeparateEvaluations(context.hooks, context.tracker, world=context.world, device=separate, say=context.say)
        )
        self.log = TrainingLog(session, context)
        self.timer = SaveTimer(session.config.save_minutes)
        self.saver = Saver(context.world, session.engine, context.dir, planned=self.planned, prefix="model.")

    def resume(self) -> int:
        """Loads the newest checkpoint that can be resumed from; returns its step, or 0 if there is none."""
        context = self.context
        missing = context.world.from_main(lambda: missing_evaluations(context.dir, self.planned))
        step = newest_step(context.world, context.dir, context.say, ended_at=0 if missing else self.planned[-1])
        context.world.from_main(lambda: rewind(context.dir, step))
        state = step_folder(context.dir, step) / STATE
        if step and state.is_dir():  # the last one has none if a finished run lost its record
            self.session.engine.load(state)
            self.log.load(state)
        return step

    def evaluate_missing(self, step: int) -> None:
        """Runs the hooks that have not finished for checkpoints up to `step`, the one whose weights are in memory."""
        due = [earlier for earlier in self.planned if earlier <= step]
        # One process looks for all of them: they must not see different states of the disk.
        for missing in self.context.world.from_main(lambda: missing_evaluations(self.context.dir, due)):
            if is_complete(step_folder(self.context.dir, missing)):
                self._evaluate(missing, in_memory=missing == step)
            else:  # a measurement was lost after the weights had been removed
                self.context.say(f"the hooks of step {missing} cannot run again: its weights are gone (keep={self.session.config.keep})")

    def checkpoint(self, step: int, result: StepResult) -> None:
        """Saves and runs the hooks if they are due after this step; raises `Preempted`, after saving, if the run was told to stop."""
        planned = step in self.planned
        if planned or result.stop or result.overdue:
            self._save(step)
            self.timer.restart()
        if planned or result.stop:  # others read it now, or nobody is there any more
            self.saver.wait()
        if planned:
            self._evaluate(step, in_memory=True)
        if self.context.world.is_main:
            self.evaluations.collect()
            self._prune()
            if step == self.planned[0]:
                self._warn_if_not_measured(step)
        if result.stop:
            raise Preempted.saved_at(f"step {step} of {self.session.num_steps}", self.preemption.code)

    def finish(self) -> None:
        """Waits for hooks that are still running, and tells them that the run has ended."""
        with self.preemption.interruptible():
            self.evaluations.finish()
            self.context.world.from_main(lambda: self.context.end(self.session.num_steps))

    def result(self, seconds: float) -> RMResult:
        """The result after `seconds` of training; points `best` at the best checkpoint."""
        session, context, last = self.session, self.context, self.planned[-1]
        evaluations = read_evaluations(context.dir, self.planned)
        self._warn_of_few(evaluations)  # of hooks beside training, that finished late
        metric, best = choose_best(evaluations, session.config.best_metric)
        if not metric and session.config.best_metric:
            context.say(_not_measured(session.config.best_metric, evaluations))
        if unfit := [str(step) for step, found in evaluations.items() if metric and not math.isfinite(found.get(metric, math.nan))]:
            context.say(f"{metric} has no finite value at step {', '.join(unfit)}, so the best checkpoint is one of the others")
        best = last if best is None else best
        if context.world.is_main:
            point_best(context.dir, best)
            # The last state is kept until the run is recorded as finished: if started again before, it must find its last step.
            forget_states(context.dir, keep=[last], planned=self.planned)
            self._prune()
        waited = self.evaluations.waited
        if waited:
            context.say(f"hooks took {waited:.1f} s of {seconds:.1f} s ({waited / seconds:.0%}) from training")
        return RMResult(
            checkpoint=step_folder(context.dir, last),
            step=last,
            metrics=evaluations.get(last, {}),
            best_step=best,
            best_metric=metric,
            best=evaluations.get(best, {}),
            num_pairs=len(session.pairs),
            num_dropped=session.tokens.num_dropped,
            num_cut=session.tokens.num_cut,
            num_equal=session.tokens.num_equal,
            num_broken=len(session.tokens.broken),
            train_s=seconds,
            hooks_s=waited,
        )

    def _prune(self) -> None:
        """Removes the checkpoints whose weights are not to be kept, of those that the hooks have measured."""
        evaluations = read_evaluations(self.context.dir, self.planned)
        _, best = choose_best(evaluations, self.session.config.best_metric)
        prune(self.context.dir, Keep.of(self.session.config.keep), measured=evaluations, best=best)

    def _save(self, step: int) -> None:
        """Writes the checkpoint of a step: a model that any tool loads, and the state of the engine.

        The order of the pairs and all random draws are functions of seed and step, so nothing else is needed to resume but the sums of the
        log.
        """
        session = self.session
        dtype = DTYPES[session.config.export_dtype or session.config.model.dtype]

        def write(folder: Path, weights: Weights) -> None:
            export_model(session.model, session.tokenizer, folder, weights=weights, dtype=dtype)

        self.saver.save(step, write, formats=export_formats(session.model, dtype), write_state=self.log.save)

    def _evaluate(self, step: int, *, in_memory: bool) -> None:
        """Runs the hooks on a saved checkpoint while training waits; a signal ends the run at once, as all is saved.

        Not where the processes read split weights together, and one that left would keep the others waiting: there the hooks end first.
        """
        session, world = self.session, self.context.world
        if world.all_sum([self.preemption.requested])[0]:  # all processes stop together: one alone would leave the others waiting
            raise Preempted.saved_at(f"step {step}, before its hooks", self.preemption.code)
        config = session.config
        saved = Saved(step=step, num_steps=session.num_steps, run_dir=self.context.dir, base=config.model, lora=config.lora)
        reward_pass = session.reward_pass()
        held = InMemory(model=session.model, tokenizer=session.tokenizer, reward_pass=reward_pass) if in_memory else None
        with nullcontext() if held and reward_pass else self.preemption.interruptible():
            self.evaluations.submit(saved, held)

    def _warn_if_not_measured(self, step: int) -> None:
        """Reports at the first checkpoint, rather than at the end, that the metric that should choose the best is not measured."""
        evaluations, metric = read_evaluations(self.context.dir, [step]), self.session.config.best_metric
        if metric and evaluations and best_step(evaluations, metric) is None:
            self.context.say(_not_measured(metric, evaluations))
        self._warn_of_few(evaluations)

    def _warn_of_few(self, evaluations: Mapping[int, Mapping[str, float]]) -> None:
        """Warns if the held-out pairs that fit into `max_length` are few."""
        for found in evaluations.values():
            if "held_out/num_pairs" in found:
                num, others = round(found["held_out/num_pairs"]), round(found["held_out/num_too_long"])
                config = self.session.config
                self.context.warn(few_held_out(num, num + others, max_length=config.max_length, validation=config.data.validation))


def choose_best(evaluations: Mapping[int, Mapping[str, float]], metric: str) -> tuple[str, int | None]:
    """The deciding metric, `metric` or the first of `BEST_METRICS` with a finite value, and its best step; ("", None) if there is none."""
    measured = Counter(name for metrics in evaluations.values() for name, value in metrics.items() if math.isfinite(value))
    common = [name for name, _ in measured.most_common()]
    name = metric or next((name for first in BEST_METRICS for name in common if name == first or first == name[: len(first)]), "")
    step = best_step(evaluations, name)
    return ("", None) if step is None else (name, step)


def _not_measured(metric: str, evaluations: Mapping[int, Mapping[str, float]]) -> str:
    names = sorted({name for metrics in evaluations.values() for name in metrics} - {AXIS})
    reason = "was not measured" if metric not in names else "has no finite value"
    return f"best_metric={metric} {reason}, so the last checkpoint counts as the best; measured: {', '.join(names) or 'nothing'}"
