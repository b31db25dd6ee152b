"""`rewardloop bon`: pools of completions made once, and what reward models pick from them."""

from pathlib import Path
from typing import Any

from core.progress import Progress, console_progress
from launch.entry import Composed, start


def run(composed: Composed, progress: Progress) -> dict[str, Any]:
    """Makes the pools, unless they are there, reranks them by every reward model, and returns all accuracies."""
    from bon.pools import bounds, make_pools, rerank
    from core.config import ModelConfig
    from core.generators.local import TransformersGenerator
    from core.models.adapters import model_fingerprint
    from core.models.load import load_policy, load_reward_model
    from core.records import Sampling
    from core.runs.identity import fingerprint
    from core.scorers.reward_model import RewardModelScorer
    from evalhooks.tasks.task import load_tasks
    from launch.rewards import reward_path
    from launch.schema import BoNJob

    job = composed.job
    assert isinstance(job, BoNJob)
    folder = Path(job.pools or f"{job.runs_dir}/{job.study}/pools")
    sources = {reward: ModelConfig(path=str(reward_path(reward, job.runs_dir)), dtype=job.model.dtype) for reward in job.rewards}
    if not job.tasks:
        raise ValueError("tasks is empty; choose some, for instance tasks=microworld or tasks=gsm8k tasks.gsm8k.path=FILE.")
    if job.rewards and (not job.best_of or not 1 <= min(job.best_of) <= max(job.best_of) <= job.pool.n):
        raise ValueError(f"best_of={job.best_of} must lie between 1 and pool.n={job.pool.n}.")
    tasks = load_tasks(job.tasks)
    prompts = {name: task.prompts[: job.pool.limit] for name, task in tasks.items()}
    verifiers = {name: task.verifier for name, task in tasks.items()}
    sampling = Sampling(n=job.pool.n, temperature=job.pool.temperature, max_new_tokens=job.pool.max_new_tokens, seed=job.pool.seed)
    origin = {"policy": model_fingerprint(job.model), "tasks": {name: fingerprint(task.path) for name, task in job.tasks.items()}}
    progress.start("sampling pools", sum(map(len, prompts.values())))
    generator = TransformersGenerator(*load_policy(job.model))
    pools = make_pools(folder, prompts, verifiers, generator, sampling, progress.advance, origin=origin | {"limit": job.pool.limit})
    progress.finish()
    size = min(len(row.completions) for rows in pools.values() for row in rows)
    result: dict[str, Any] = {"dir": str(folder), "n": size, "bounds": bounds(pools, size), "rewards": {}}
    for reward, source in sources.items():
        scorer = RewardModelScorer(*load_reward_model(source), batch_tokens=job.hooks.batch_tokens)
        result["rewards"][reward] = rerank(pools, scorer, job.best_of)
    return result


def _command(composed: Composed) -> None:
    from rich.console import Console
    from rich.table import Table

    result = run(composed, console_progress())
    size = result["n"]
    tasks = [task for task in result["bounds"]["random"] if task != "average"]
    table = Table(title=f"best of {size}, from {result['dir']}", title_justify="left")
    for column in ("reward", *tasks, "average"):
        table.add_column(column, justify="left" if column == "reward" else "right")
    for name in ("random", "oracle"):
        table.add_row(name, *(f"{100 * result['bounds'][name][task]:.1f}" for task in (*tasks, "average")))
    for reward, metrics in result["rewards"].items():
        n = max(int(key.rpartition("@")[2]) for key in metrics)
        table.add_row(f"{Path(reward).name} @{n}", *(f"{100 * metrics[f'bon/{task}@{n}']:.1f}" for task in (*tasks, "average")))
    Console().print(table)


def main() -> None:
    """Entry point."""
    start("bon", _command)


if __name__ == "__main__":
    main()
