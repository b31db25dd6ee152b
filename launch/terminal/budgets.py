"""What a dry run tells of `hooks.budget`: the rows that it leaves, as far as files on this machine tell."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bon.pools import load_pools
from core.disk import is_complete
from evalhooks.measured_rows import listed
from evalhooks.row_share import LORA_PASSES, PASSES, Scored, Trained, budget_exceeded, row_share
from evalhooks.tasks.task import Task
from launch.inputs import BenchmarkRows
from launch.schema import PPOJob, RMJob
from launch.terminal.found_here import readable
from rmtrain.config import Overlong
from rmtrain.data import PreferenceData


def row_budget(
    job: RMJob, rows: BenchmarkRows, data: PreferenceData, lengths: Sequence[float], *, epochs: float, notes: list[str]
) -> Iterator[str]:
    """What `hooks.budget` leaves of the rows, `epochs` of training lying between two checkpoints."""
    budget, folder = job.hooks.budget, job.hooks.pools
    if budget is None:
        return
    pools = readable(lambda: load_pools(Path(folder)), notes) if folder and is_complete(Path(folder)) else {}
    if pools is None or (folder and not pools):
        yield from unknown_rows(job)
        return
    kept = [min(1.0, job.max_length / length) if length else 1.0 for length in lengths]
    shares = [share if share == 1 or job.overlong == Overlong.cut else 0.0 for share in kept]
    trained = Trained(pairs=data.training, shares_N=shares, epochs=epochs, passes=LORA_PASSES if job.lora.rank else PASSES)
    scored = Scored(rewardbench2=rows.rewardbench2, rewardbench1=rows.rewardbench1, pools=pools, held_out=data.held_out)
    if not scored.sizes:
        yield f"hooks.budget={budget:g}: there is nothing that the hooks score"
        return
    found = row_share(budget, trained, scored)
    left = scored.drawn(found.share).sizes
    part = listed({name: (left[name], size) for name, size in scored.sizes.items()}, "rows") if found.share < 1 else "all rows"
    yield f"hooks.budget={budget:g}: leaves about {part}; they cost about {found.cost:.0%} of the time of training between two checkpoints"
    if warning := budget_exceeded(budget, found):
        yield warning.line


def unknown_rows(job: RMJob) -> Iterator[str]:
    if job.hooks.budget is not None:
        yield (
            f"hooks.budget={job.hooks.budget:g}: each checkpoint is measured on as many rows as cost {job.hooks.budget:.0%} of the time of "
            "training since the last; how many cannot be told, as pairs, rows or pools are not all here"
        )


def task_budget(job: PPOJob, tasks: Mapping[str, Task] | None) -> Iterator[str]:
    """What `hooks.budget` will do: how much it leaves is timed by the run itself."""
    budget = job.hooks.budget
    if budget is None:
        return
    if not job.tasks:
        yield f"hooks.budget={budget:g}: there is no task to measure"
        return
    prompts = "the prompts of the tasks" if tasks is None else f"{sum(len(task.prompts) for task in tasks.values())} prompts of tasks"
    episodes = job.batch_size * job.num_batches // job.num_checkpoints
    yield (
        f"hooks.budget={budget:g}: at the first checkpoint a few prompts of training and of each task are timed, and of {prompts} as "
        f"many are measured from then on as take {budget:.0%} of the time of drawing the {episodes} answers between two checkpoints, one "
        "of each task at least; how many cannot be told before"
    )
