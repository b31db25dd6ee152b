"""`rewardloop rm`: one reward model, or a sweep of them."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from core.progress import Progress, console_progress
from launch.entry import Composed, num_processes, rank, start

SHOWN = ("rewardbench2/overall", "bon/average", "held_out/accuracy")


def run(composed: Composed, progress: Progress) -> dict[str, Any]:
    """Trains the reward model of a configuration, unless it is finished already, and returns its record.

    Where several processes were started together, all of them call it.
    """
    from core.config import engine_for
    from core.models.locate import resolve
    from launch.inputs import benchmark_rows, preferences_of
    from launch.schema import RMJob

    job = composed.job
    assert isinstance(job, RMJob)
    # What is likely to be wrong is looked at before torch is imported; what is finished, before its data is read.
    engine_for(job.engine.kind, num_processes())
    if any((Path(job.runs_dir) / job.study).glob("rm-*")) and (record := _finished(job)) is not None:
        return record
    benchmarks = benchmark_rows(job.hooks)
    data = preferences_of(job, benchmarks, say=print if rank() == 0 else _silent)
    resolve(job.model)

    from core.engines.resume import forget_states
    from core.hooks.hook import Hook
    from core.process.world import join_world
    from core.runs.record import finish_run
    from core.runs.tracking import Trackers
    from evalhooks.checkpoints import HeldOutHook
    from evalhooks.config import Where
    from launch.parts import opened, record_of, reward_model_hook, tracked
    from rmtrain.train import train

    hooks: list[Hook] = [reward_model_hook(job.hooks, benchmarks)]
    if data.held_out:
        hooks.append(HeldOutHook(data.held_out, max_length=job.max_length, batch_tokens=job.hooks.batch_tokens))
    identity, lineage = _identity(job)
    world = join_world()
    run, has_work = world.from_main(
        lambda: opened(composed, "rm", _name(job, lineage["base"]), identity, lineage=lineage, data=data.counts)
    )
    if not has_work:
        return record_of(run)
    with tracked(job, run, {**identity, "lineage": lineage}) if world.is_main else nullcontext(Trackers([])) as tracker:
        outcome = train(
            job,
            run.dir,
            preferences=data.training,
            hooks=hooks,
            tracker=tracker,
            progress=progress,
            separate=job.hooks.device if job.hooks.where == Where.separate else None,
            world=world,
        )
        if world.is_main:
            finish_run(run, **_results(outcome))
            forget_states(run.dir)
    world.barrier()
    return record_of(run)


def _results(outcome: Any) -> dict[str, Any]:
    """What the run's record says of its end."""
    return {
        "final": dict(outcome.metrics),
        "step": outcome.step,
        "best_step": outcome.best_step,
        "best_metric": outcome.best_metric,
        "best": dict(outcome.best),
        "num_pairs": outcome.num_pairs,
        "num_dropped_pairs": outcome.num_dropped,
        "num_cut_pairs": outcome.num_cut,
        "train_s": outcome.train_s,
        "hooks_s": outcome.hooks_s,
    }


def _finished(job: Any) -> dict[str, Any] | None:
    """The record of the job's run if it is finished already."""
    from core.engines.resume import forget_states
    from core.models.locate import resolve
    from core.runs.record import is_finished, run_of
    from launch.parts import record_of

    resolve(job.model)
    identity, lineage = _identity(job)
    name = job.name or _name(job, lineage["base"])
    run = run_of(runs_dir=Path(job.runs_dir), study=job.study, job="rm", name=name, identity=identity)
    if not is_finished(run):
        return None
    if rank() == 0:
        print(f"{run.dir} is finished already", file=sys.stderr)
        forget_states(run.dir)  # which a process killed at the very end left behind
    return record_of(run)


def _identity(job: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """What determines the job's result, and what it comes from."""
    from core.models.origin import lineage_of
    from launch.parts import identity_of
    from rmtrain.data import named_sources

    # By their order too: it decides which of two equal pairs stays, and what a seed draws.
    files = {f"data.{i}.{name}": source.path for i, (name, source) in enumerate(named_sources(job.data).items())}
    files |= {key: getattr(job.hooks, key) for key in ("rewardbench2", "rewardbench1", "pools")}
    lineage = {"base": lineage_of(job.model), "model": job.model.path, "data": job.data.name}
    return identity_of(job, models={"model": job.model}, files=files), lineage


def _name(job: Any, base: str) -> str:
    """What the run is called: model, data, learning rate and epochs, and how it departs from plain training."""
    flipped = f"-flip{job.data.flip:g}" if job.data.flip else ""
    mantissa, _, exponent = f"{job.optim.lr:e}".partition("e")
    rate = f"{float(mantissa):g}e{int(exponent)}"
    lora = f"-lora{job.lora.rank}" if job.lora.rank else ""
    path = job.model.path
    # Several stages of one lineage lie on the hub; what a local folder is called says less than what it came from.
    model = base if Path(path).exists() else path.partition("@")[0].removeprefix("pip:")
    return f"{model.rpartition('/')[2]}-{job.data.name}{flipped}-lr{rate}-e{job.epochs}{lora}"


def _command(composed: Composed) -> dict[str, Any]:
    record = run(composed, console_progress())
    if rank() > 0:
        return record
    shown = ", ".join(f"{key} {value:.3f}" for key, value in record["final"].items() if key.startswith(SHOWN))
    print(f"{record['dir']}: " + ", ".join(filter(None, [shown, f"best checkpoint: step {record['best_step']} of {record['step']}"])))
    return record


def _silent(line: str) -> None:
    """What one process says, the others need not repeat."""


def main() -> None:
    """Entry point."""
    start("rm", _command)


if __name__ == "__main__":
    main()
