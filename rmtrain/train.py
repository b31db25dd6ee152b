"""Reward-model training as one loop: step, log, checkpoint, hooks."""

import time
from collections.abc import Sequence

from core.hooks.run_context import RunContext
from core.process.signals import Preemption
from core.records import Preference
from rmtrain.config import RewardModelConfig
from rmtrain.run import RMResult, RMRun
from rmtrain.session import RMSession


def train(config: RewardModelConfig, context: RunContext, *, preferences: Sequence[Preference], separate: str | None = None) -> RMResult:
    """Fits a Bradley-Terry reward model, and runs the hooks at every checkpoint.

    Continues from the newest complete checkpoint in the run's folder, if there is one, and ends at the same weights, bit for
    bit. With `separate` the hooks run in a process of their own, which sees the devices that it names (empty: those of this
    process). All processes call it. Raises `Preempted`, with everything saved, after a SIGTERM or Ctrl-C.
    """
    with Preemption().listening() as preemption:
        with preemption.interruptible():
            session = RMSession(config, preferences, world=context.world, progress=context.progress, say=context.say, warn=context.warn)
            run = RMRun(session, context, preemption, separate=separate)
            step = run.resume()
        started = time.monotonic()
        try:
            run.evaluate_missing(step)
            _loop(run, step)
            run.finish()
        finally:
            run.evaluations.close()
            run.saver.close()
    return run.result(time.monotonic() - started)


def _loop(run: RMRun, step: int) -> None:
    session, context = run.session, run.context
    context.progress.start("training", session.num_steps, unit="step", done=step)
    run.log.begin()
    while step < session.num_steps:
        step += 1
        result = session.step(step, stop=run.preemption.requested, overdue=run.timer.overdue)
        run.log.add(step, result)
        pausing = time.monotonic()
        run.checkpoint(step, result)
        run.log.pause(pausing)
    context.progress.finish()
