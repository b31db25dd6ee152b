"""`rewardloop rm`: one reward model, or a sweep of them."""

from dataclasses import replace
from pathlib import Path

from core.config import engine_for
from core.engines.resume import forget_states
from core.models.origin import lineage_of
from core.process.signals import stopping_at_once
from core.progress import Progress, console_progress
from launch.entry import Composed, num_processes, print_on_main, rank, start
from launch.identity import identity_of
from launch.inputs import rm_inputs
from launch.jobs.lifecycle import Record, RunPlan, finished_record, say_finished
from launch.schema import RMJob
from launch.terminal.closing import rm_lines


def run(composed: Composed[RMJob], progress: Progress) -> Record:
    """Trains the reward model of a configuration, unless it is finished already, and returns the record of its run.

    Where several processes were started together, all of them call it.
    """
    job = composed.job
    engine_for(job.engine.kind, num_processes())
    # Reading the data takes time, which a finished run can do without.
    if any((Path(job.runs_dir) / job.study).glob("rm-*")) and (record := finished_record(job, plan_of(job))) is not None:
        if rank() == 0:
            say_finished(record["dir"])
            forget_states(Path(record["dir"]))  # which a process killed at the very end left behind
        return record
    inputs = rm_inputs(job, say=print_on_main)
    plan = plan_of(job)

    with stopping_at_once():
        from launch.jobs import rm  # torch, which takes seconds: what is likely to be wrong has been found by now

    return rm.run(composed, replace(plan, facts={**plan.facts, "data": inputs.preferences.counts}), inputs, progress)


def plan_of(job: RMJob) -> RunPlan:
    """The run of a job. Raises as `identity_of` for inputs that are not there."""
    base = lineage_of(job.model)
    lineage = {"base": base, "model": job.model.path, "data": job.data.name}
    return RunPlan(kind="rm", name=_name(job, base), identity=identity_of(job), facts={"lineage": lineage})


def _name(job: RMJob, base: str) -> str:
    """What the run is called: model, data, learning rate and epochs, and how it departs from plain training."""
    flipped = f"-flip{job.data.flip:g}" if job.data.flip else ""
    mantissa, _, exponent = f"{job.optim.lr:e}".partition("e")
    rate = f"{float(mantissa):g}e{int(exponent)}"
    lora = f"-lora{job.lora.rank}" if job.lora.rank else ""
    path = job.model.path
    # Several stages of one lineage lie on the hub; what a local folder is called says less than what it came from.
    model = base if Path(path).exists() else path.partition("@")[0].removeprefix("pip:")
    return f"{model.rpartition('/')[2]}-{job.data.name}{flipped}-lr{rate}-e{job.epochs}{lora}"


def _command(composed: Composed[RMJob]) -> Record:
    with console_progress() as progress:
        record = run(composed, progress)
    print_on_main("\n".join(rm_lines(record)))
    return record


def main() -> None:
    """Entry point."""
    start(RMJob, _command)


if __name__ == "__main__":
    main()
