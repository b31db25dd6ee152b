"""`rewardloop rm`: one reward model, or a sweep of them."""

from typing import Any

from core.progress import Progress, console_progress
from launch.entry import Composed, start


def run(composed: Composed, progress: Progress) -> dict[str, Any]:
    """Trains the reward model of a configuration, unless it is finished already, and returns its record."""
    from core.sources import resolve
    from launch.schema import RMJob
    from rmtrain.data import load_preferences

    job = composed.job
    assert isinstance(job, RMJob)
    # What is likely to be wrong is looked at before torch is imported.
    preferences, held_out = load_preferences(job.data, seed=job.seed)
    resolve(job.model)

    from core.hooks import Hook
    from core.runs import finish_run
    from evalhooks.checkpoints import HeldOutHook
    from launch.parts import identity_of, lineage_of, opened, record_of, reward_model_hook, tracked
    from rmtrain.train import train

    hooks: list[Hook] = [reward_model_hook(job.hooks)]
    if held_out:
        hooks.append(HeldOutHook(held_out, batch_tokens=job.hooks.batch_tokens))
    files = {f"data.{i}": path for i, path in enumerate(job.data.paths)}
    files |= {key: getattr(job.hooks, key) for key in ("rewardbench2", "rewardbench1", "pools")}
    identity = identity_of(job, models={"model": job.model}, files=files)
    lineage = {"base": lineage_of(job.model), "model": job.model.path, "data": job.data.name}
    flipped = f"-flip{job.data.flip:g}" if job.data.flip else ""
    mantissa, _, exponent = f"{job.optim.lr:e}".partition("e")
    rate = f"{float(mantissa):g}e{int(exponent)}"
    name = f"{lineage['base'].rpartition('/')[2]}-{job.data.name}{flipped}-lr{rate}-e{job.epochs}"
    run, has_work = opened(composed, "rm", name, identity, lineage=lineage)
    if not has_work:
        return record_of(run)
    with tracked(job, run, {**identity, "lineage": lineage}) as tracker:
        outcome = train(job, run.dir, preferences=preferences, hooks=hooks, tracker=tracker, progress=progress)
        finish_run(run, final=dict(outcome.metrics), step=outcome.step, num_pairs=outcome.num_pairs, num_dropped_pairs=outcome.num_dropped)
    return record_of(run)


def _command(composed: Composed) -> None:
    record = run(composed, console_progress())
    print(f"{record['dir']}: " + ", ".join(f"{key} {value:.3f}" for key, value in record["final"].items() if key.startswith(SHOWN)))


SHOWN = ("rewardbench2/overall", "bon/average")


def main() -> None:
    """Entry point."""
    start("rm", _command)


if __name__ == "__main__":
    main()
