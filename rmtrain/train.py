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
    since_last_row, meter = PairSums.zeros(), Meter(session)
    while step < session.num_steps:
        step += 1
        result = session.step(step, stop=run.preemption.requested, overdue=run.timer.overdue)
        since_last_row += result.sums
        context.progress.note(_note(since_last_row, meter))
        context.progress.advance()
        if step % config.log_every == 0 or step == session.num_steps:
            row = {**since_last_row.metrics(), **meter.metrics(since_last_row), "grad_norm": result.grad_norm}
            context.log_training(row | {"learning_rate": session.learning_rate(step), "epoch": session.epoch(step)}, step)
            if step == session.num_steps:
                context.warn(not_learned(row["accuracy"], num_pairs=since_last_row.num_pairs.item()))
            since_last_row = PairSums.zeros()
        pausing = time.monotonic()
        run.checkpoint(step, result)
        meter.pause(pausing)
    context.progress.finish()


def _note(sums: PairSums, meter: Meter) -> str:
    """What the live line says: loss and accuracy over the pairs since the last row of the log, and the throughput."""
    measured = sums.metrics()
    rate = short_count(meter.tokens_per_second(sums))
    return f"loss {measured['loss']:.3f}, accuracy {measured['accuracy']:.2f}, {rate} tokens/s"
