"""Training of one reward model as one loop: step, log, checkpoint, hooks."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.engines.resume import forget_states
from core.hooks.hook import Hook, eval_file, read_evaluation
from core.hooks.placement import Evaluations, InlineEvaluations, Saved, SeparateEvaluations, missing_evaluations
from core.process.signals import Preempted, Preemption
from core.process.world import World, join_world
from core.progress import NoProgress, Progress
from core.records import AXIS, Preference, RunEnded, Tracker
from core.runs.checkpoints import point_best, step_folder
from rmtrain.config import RewardModelConfig
from rmtrain.metrics import Tally
from rmtrain.session import RMSession
from rmtrain.speed import Meter
from rmtrain.state import restore, save

BEST = ("rewardbench2/overall", "held_out/accuracy")
"""What the best checkpoint is chosen by where the configuration names no metric: the first of these that the hooks measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RMResult:
    """Where the last checkpoint lies, its step and metrics, those of the best one, and what became of the data.

    `best_metric` is the name of what the best was chosen by, empty where nothing was measured. `train_s` are seconds of
    training in this process, of which it stood still for the hooks for `hooks_s`.
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
    train_s: float
    hooks_s: float


def train(
    config: RewardModelConfig,
    run_dir: Path,
    *,
    preferences: Sequence[Preference],
    hooks: Sequence[Hook],
    tracker: Tracker,
    progress: Progress,
    separate: str | None = None,
    say: Callable[[str], None] = print,
    world: World | None = None,
) -> RMResult:
    """Fits a Bradley-Terry reward model and has the hooks run at every checkpoint.

    Continues from the newest complete checkpoint in `run_dir`, if there is one, to the same weights, bit for bit. With
    `separate` the hooks run in a process of their own that sees the devices it names (empty: those of this one). All
    processes call it; `tracker`, `progress` and `say` are used on the main one alone. Raises `Preempted`, all saved, after
    a SIGTERM.
    """
    world = world or join_world()
    if not world.is_main:
        progress, say = NoProgress(), _silent
    with Preemption().listening() as preemption:
        with preemption.interruptible():
            session = RMSession(config, preferences, world=world, progress=progress, say=say)
            first = restore(session, run_dir, say)
        running: Evaluations = InlineEvaluations(hooks, tracker, session.engine.autocast)
        if separate is not None:
            running = SeparateEvaluations(hooks, tracker, device=separate, say=say)
        planned = checkpoint_steps(config, session.num_steps)
        run = _Run(session=session, dir=run_dir, planned=planned, running=running, preemption=preemption)
        started = time.monotonic()
        try:
            # One process looks, for all: they must not see different states of the disk.
            for step in world.from_main(lambda: missing_evaluations(run_dir, [step for step in planned if step <= first])):
                run.evaluate(step, in_memory=step == first)
            _loop(run, first, tracker, progress, say)
            with preemption.interruptible():
                world.from_main(lambda: run.finish(hooks))
        finally:
            running.close()
    return run.outcome(time.monotonic() - started, say)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """What the loop works with. `planned` are the steps of the checkpoints whose hooks run."""

    session: RMSession
    dir: Path
    planned: Sequence[int]
    running: Evaluations
    preemption: Preemption

    def save(self, step: int) -> None:
        save(self.session, self.dir, step, planned=self.planned)

    def evaluate(self, step: int, *, in_memory: bool) -> None:
        """Has the hooks run on a saved checkpoint, while the other processes wait; all is saved, so a signal ends it at once."""
        session = self.session
        if session.world.all_sum([self.preemption.requested])[0]:  # one alone must not leave the others waiting
            raise Preempted(f"stopped by a signal before the hooks of step {step}; all is saved, and the same command goes on from there")
        config = session.config
        saved = Saved(step=step, num_steps=session.num_steps, run_dir=self.dir, base=config.model, lora=config.lora)
        held = (session.model, session.tokenizer) if in_memory and not session.engine.sharded else (None, None)
        with self.preemption.interruptible():
            # One process does it, and what it raises is raised in all.
            session.world.from_main(lambda: self.running.submit(saved, *held))

    def finish(self, hooks: Sequence[Hook]) -> None:
        """Waits for hooks that still run, and tells them that the run has ended."""
        self.running.finish()
        for hook in hooks:
            hook.on_end(RunEnded(run_dir=self.dir, step=self.session.num_steps))

    def outcome(self, seconds: float, say: Callable[[str], None]) -> RMResult:
        """What the run has come to; points `best` at the best checkpoint."""
        session, last = self.session, self.planned[-1]
        evaluations = {step: read_evaluation(self.dir, step) for step in self.planned if eval_file(self.dir, step).exists()}
        name, best = best_step(evaluations, session.config.best_metric, last, say)
        if session.world.is_main:
            point_best(self.dir, best)
            # The last one's stays until the run counts as finished: whoever comes again must find it done.
            forget_states(self.dir, keep=[last], planned=self.planned)
        waited = self.running.waited
        if waited and session.world.is_main:
            say(f"hooks took {waited:.1f} s of {seconds:.1f} s ({waited / seconds:.0%}) from training")
        return RMResult(
            checkpoint=step_folder(self.dir, last),
            step=last,
            metrics=evaluations.get(last, {}),
            best_step=best,
            best_metric=name,
            best=evaluations.get(best, {}),
            num_pairs=len(session.pairs),
            num_dropped=session.num_dropped,
            num_cut=session.num_cut,
            train_s=seconds,
            hooks_s=waited,
        )


def _loop(run: _Run, step: int, tracker: Tracker, progress: Progress, say: Callable[[str], None]) -> None:
    session, config = run.session, run.session.config
    progress.start("training", session.num_steps)
    progress.advance(step)
    window, meter, saved_at = Tally(), Meter(session), time.monotonic()
    while step < session.num_steps:
        step += 1
        overdue = time.monotonic() - saved_at > 60 * config.save_minutes
        tally, norm = session.step(step, stop=run.preemption.requested, overdue=overdue)
        window.add(tally.flat())
        progress.advance()
        if step % config.log_every == 0 or step == session.num_steps:
            if session.world.is_main:
                measured = {
                    **window.metrics(),
                    **meter.metrics(window.sums),
                    "grad_norm": norm,
                    "learning_rate": session.learning_rate(step),
                }
                measured["epoch"] = session.epoch(step)
                tracker.log({f"train/{key}": value for key, value in measured.items()}, axis="train/step", step=step)
            window = Tally()
        pausing, stop = time.monotonic(), tally.sums["stop"] > 0
        if step in run.planned or stop or tally.sums["overdue"]:
            run.save(step)
            saved_at = time.monotonic()
        if step in run.planned:
            run.evaluate(step, in_memory=True)
        if session.world.is_main:
            run.running.collect()
            if step == run.planned[0] and eval_file(run.dir, step).exists():
                best_step({step: read_evaluation(run.dir, step)}, config.best_metric, step, say)  # says so if it was not measured
        if stop:
            raise Preempted(f"stopped by a signal and saved at step {step} of {session.num_steps}; the same command goes on from there")
        meter.pause(pausing)
    progress.finish()


def checkpoint_steps(config: RewardModelConfig, num_steps: int) -> list[int]:
    """The steps whose checkpoints the hooks run on: by number, by step or by share of an epoch; the last is the end of training.

    A share of an epoch is rounded up to whole steps, anew at each multiple.
    """
    every, count = config.checkpoint_every, config.num_checkpoints
    if every:
        length = every * num_steps / config.epochs if every < 1 else every
        # Step s is one where a multiple of the length lies in (s - 1, s].
        planned = [s for s in range(1, num_steps) if math.floor(s / length + 1e-9) > math.floor((s - 1) / length + 1e-9)]
    else:
        planned = [math.ceil(num_steps * (i + 1) / count) for i in range(count)]
    return sorted({*planned, num_steps})


def best_step(
    evaluations: Mapping[int, Mapping[str, float]], metric: str, last: int, say: Callable[[str], None] = print
) -> tuple[str, int]:
    """The name of the metric that counts and the step highest in it, the earliest of equals; `last` where it was never measured."""
    names = sorted({name for metrics in evaluations.values() for name in metrics} - {AXIS})
    name = metric or next((name for name in BEST if name in names), "")
    measured = {step: metrics[name] for step, metrics in evaluations.items() if name in names and name in metrics}
    values = {step: value for step, value in measured.items() if not math.isnan(value)}
    if values:
        return name, max(values, key=lambda step: (values[step], -step))
    if metric:
        say(f"best_metric={metric} was not measured, so the last checkpoint counts as the best; there are: {', '.join(names) or 'none'}")
    return "", last


def _silent(line: str) -> None:
    """The other processes leave speaking to the main one."""
