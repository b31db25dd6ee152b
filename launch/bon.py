"""`rewardloop bon`: pools of completions made once, and what reward models pick from them."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from core.config import ModelConfig
from core.models.locate import resolve
from core.process.signals import stopping_at_once
from core.progress import Progress, console_progress
from evalhooks.tasks.task import load_tasks
from launch.entry import Composed, print_on_main, rank, start
from launch.identity import identity_of
from launch.inputs import BoNInputs, BoNResult
from launch.obstacles import task_obstacle
from launch.rewards.locate import reward_path
from launch.schema import BoNJob
from launch.terminal.closing import bon_lines


def run(composed: Composed[BoNJob], progress: Progress) -> BoNResult:
    """Makes the pools, unless they are there, reranks them by every reward model, and returns all accuracies."""
    job = composed.job
    models = {reward: ModelConfig(path=str(reward_path(reward, job.runs_dir)), dtype=job.model.dtype) for reward in job.rewards}
    if missing := task_obstacle(job):
        raise ValueError(missing)
    resolve(job.model)
    inputs = BoNInputs(tasks=load_tasks(job.tasks), rewards=models, identity=identity_of(job))

    with stopping_at_once():
        from launch.jobs import bon  # torch, which takes seconds: what is likely to be wrong has been found by now

    return bon.run(job, inputs, progress)


def _command(composed: Composed[BoNJob]) -> None:
    job = composed.job
    with console_progress() as progress:
        result = run(composed, progress)
    if rank() > 0:
        return
    tasks = [task for task in result.bounds["random"] if task != "average"]
    table = Table(title=f"best of {result.n}, from {result.dir}", title_justify="left")
    for column in ("reward", *tasks, "average"):
        table.add_column(column, justify="left" if column == "reward" else "right")
    for name in ("random", "oracle"):
        table.add_row(name, *(f"{100 * result.bounds[name][task]:.1f}" for task in (*tasks, "average")))
    for reward, metrics in result.rewards.items():
        n = max(job.sizes)
        shown = [metrics.get(f"bon/{task}@{n}") for task in (*tasks, "average")]
        table.add_row(f"{Path(reward).name} @{n}", *("n/a" if value is None else f"{100 * value:.1f}" for value in shown))
    Console().print(table)
    print_on_main("\n".join(bon_lines(result.dir, has_rewards=bool(result.rewards))))


def main() -> None:
    """Entry point."""
    start(BoNJob, _command)


if __name__ == "__main__":
    main()
