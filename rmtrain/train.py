"""Reward-model training as one loop: step, log, checkpoint, hooks."""

import time
from collections.abc import Sequence

from core.hooks.run_context import RunContext
from core.process.signals import Preemption
from core.progress import short_count
from core.records import Preference
from core.runs.warnings import not_learned
from rmtrain.config import RewardModelConfig
from rmtrain.metrics import PairSums
from rmtrain.run import RMResult, RMRun
from rmtrain.session import RMSession
from rmtrain.speed import Meter

MIN_ROWS = 10
"""Rows of the training log at least, as far as there are steps: of one or two nobody sees how the loss fell."""


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
    session, context, config = run.session, run.context, run.session.config
    context.progress.start("training", session.num_steps, unit="step", done=step)
    since_last_row, lately, meter = PairSums.zeros(), PairSums.zeros(), Meter(session)
    log_every = max(1, min(config.log_every, session.num_steps // MIN_ROWS))
    while step < session.num_steps:
        step += 1
        result = session.step(step, stop=run.preemption.requested, overdue=run.timer.overdue)
        since_last_row, lately = since_last_row + result.sums, lately + result.sums
        context.progress.note(_note(lately, meter.tokens_per_second(since_last_row)))
        context.progress.advance()
        if step % log_every == 0 or step == session.num_steps:
            row = {**since_last_row.metrics(), **meter.metrics(since_last_row), "grad_norm": result.grad_norm}
            context.log_training(row | {"learning_rate": session.learning_rate(step), "epoch": session.epoch(step)}, step)
            since_last_row = PairSums.zeros()
        if step == session.num_steps:
            context.warn(not_learned(lately.metrics()["accuracy"], num_pairs=lately.num_pairs.item()))
        if step % config.log_every == 0:
            lately = PairSums.zeros()
        pausing = time.monotonic()
        run.checkpoint(step, result)
        meter.pause(pausing)
    context.progress.finish()


def _note(sums: PairSums, tokens_per_second: float) -> str:
    """What the live line says: loss and accuracy over the pairs of the last steps, up to `log_every`, and the throughput."""
    measured = sums.metrics()
    return f"loss {measured['loss']:.3f}, accuracy {measured['accuracy']:.2f}, {short_count(tokens_per_second)} tokens/s"
