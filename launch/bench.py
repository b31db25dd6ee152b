"""`rewardloop bench`: RewardBench 2 and 1 of one reward model."""

from pathlib import Path
from typing import Any

from launch.entry import Composed, start


def run(composed: Composed) -> dict[str, Any]:
    """Scores the benchmark of the configuration and returns domains, overall and standard errors."""
    from core.checkpoint import write_json
    from core.config import ModelConfig
    from core.models import load_reward_model
    from core.reward import RewardModelScorer
    from core.sources import resolve
    from evalhooks import rewardbench1, rewardbench2
    from evalhooks.benchmark import load_rewardbench1, load_rewardbench2, score_rows
    from launch.parts import reward_path
    from launch.schema import BenchJob

    job = composed.job
    assert isinstance(job, BenchJob)
    if not job.hooks.rewardbench2 and not job.hooks.rewardbench1:
        raise ValueError("hooks.rewardbench2 and hooks.rewardbench1 are both empty; name a benchmark file.")
    rows2 = load_rewardbench2(job.hooks.rewardbench2, limit=job.hooks.limit) if job.hooks.rewardbench2 else []
    rows1 = load_rewardbench1(job.hooks.rewardbench1, limit=job.hooks.limit) if job.hooks.rewardbench1 else []
    source = ModelConfig(path=str(reward_path(job.reward.path, job.runs_dir)), revision=job.reward.revision)
    resolve(source, "reward.path")
    scorer = RewardModelScorer(*load_reward_model(source), batch_tokens=job.hooks.batch_tokens)
    result: dict[str, Any] = {"reward": source.path}
    if rows2:
        scored = score_rows(rows2, scorer)
        found = rewardbench2.scores(scored)
        result["rewardbench2"] = {
            "per_subset": dict(found.per_subset),
            "overall": found.overall,
            "reason": found.reason,
            "standard_errors": dict(rewardbench2.standard_errors(scored)),
        }
    if rows1:
        found1 = rewardbench1.scores(score_rows(rows1, scorer))
        result["rewardbench1"] = {"per_section": dict(found1.per_section), "overall": found1.overall, "reason": found1.reason}
    result["num_truncated"] = scorer.num_truncated
    if job.out:
        write_json(Path(job.out), result)
    return result


def _command(composed: Composed) -> None:
    from rich.console import Console
    from rich.table import Table

    result = run(composed)
    table = Table(title=result["reward"], title_justify="left")
    for column, justify in (("benchmark", "left"), ("part", "left"), ("score", "right"), ("standard error", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for key, name in (("rewardbench2", "RewardBench 2"), ("rewardbench1", "RewardBench 1")):
        found = result.get(key)
        if found is None:
            continue
        errors = found.get("standard_errors", {})
        for part, score in {**found.get("per_subset", found.get("per_section", {})), "overall": found["overall"]}.items():
            shown = "missing" if score is None else f"{100 * score:.1f}"
            table.add_row(name, part, shown, f"{100 * errors[part]:.1f}" if part in errors else "")
    Console().print(table)
    for key in ("rewardbench2", "rewardbench1"):
        if result.get(key, {}).get("reason"):
            print(f"no overall of {key}: {result[key]['reason']}")


def main() -> None:
    """Entry point."""
    start("bench", _command)


if __name__ == "__main__":
    main()
