"""`rewardloop ppo`: a policy against a reward, by PPO, RLOO or GRPO."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.progress import Progress, console_progress
from launch.entry import Composed, num_processes, rank, start

if TYPE_CHECKING:
    from launch.schema import PPOJob


def run(composed: Composed, progress: Progress) -> dict[str, Any]:
    """Trains the policy of a configuration, unless it is finished already, and returns its record.

    Where several processes were started together, all of them call it.
    """
    from core.config import engine_for
    from core.models.locate import resolve
    from launch.inputs import benchmark_rows
    from launch.rewards import Sources, term_sources, terms_identity
    from launch.schema import PPOJob
    from ppo.config import Algo
    from ppo.critic_free.arguments import require_supported
    from ppo.prompts import read_prompts

    job = composed.job
    assert isinstance(job, PPOJob)
    # What is likely to be wrong is looked at before torch is imported.
    engine_for(job.engine.kind, num_processes())
    _require_task(job)
    if job.algo != Algo.ppo:
        require_supported(job)
    prompts = read_prompts(job.prompts)
    resolve(job.model)
    sources: dict[str, Sources] = term_sources(job, prompts)
    rows = benchmark_rows(job.hooks).rewardbench2

    from core.process.world import join_world
    from core.runs.record import finish_run
    from core.runs.tracking import Trackers
    from launch.parts import identity_of, opened, record_of, tracked

    files = {f"prompts.{i}": path for i, path in enumerate(job.prompts)} | {f"tasks.{n}": task.path for n, task in job.tasks.items()}
    files["rewardbench2"] = job.hooks.rewardbench2
    identity = identity_of(job, models={"model": job.model}, files=files)
    del identity["reward"]  # its settings with places in them; by content it stands among the rewards
    identity["rewards"] = terms_identity(job, sources)
    lineage = _lineage(job, sources)
    world = join_world()
    run, has_work = world.from_main(lambda: opened(composed, "ppo", _name(job, lineage), identity, lineage=lineage))
    if not has_work:
        if world.is_main:
            _tidy(run.dir)  # which a process killed at the very end left undone
        return record_of(run)
    if world.is_main:
        for warning in lineage["warnings"]:
            print(f"warning: {warning}")
    with tracked(job, run, {**identity, "lineage": lineage}) if world.is_main else nullcontext(Trackers([])) as tracker:
        outcome = _trained(job, run.dir, prompts, sources, rows, tracker, progress, world)
        if world.is_main:
            finish_run(
                run,
                last_step=outcome.last_step,
                best_step=outcome.best_step,
                best={job.best_metric: outcome.best_value},
                num_dropped_prompts=outcome.num_dropped_prompts,
                stopped_because=outcome.stopped_because,
            )
            _tidy(run.dir)
    world.barrier()
    return record_of(run)


def _require_task(job: "PPOJob") -> None:
    """Raises `ValueError` where the best checkpoint is chosen by a task that the job does not have."""
    group, _, name = job.best_metric.partition("/")
    if group != "downstream" or name in job.tasks or (job.tasks and name == "average"):
        return
    if not job.tasks:
        raise ValueError(
            f"best_metric={job.best_metric} needs a task, and there is none; add one (tasks=gsm8k tasks.gsm8k.path=FILE), or choose the "
            "checkpoint by the reward itself (best_metric=rm_score)."
        )
    known = ", ".join(f"downstream/{name}" for name in ("average", *job.tasks))
    raise ValueError(f"best_metric={job.best_metric} is not measured; choose one of {known}, or rm_score.")


def _trained(job: Any, run_dir: Path, prompts: Any, sources: Any, rows: Any, tracker: Any, progress: Progress, world: Any) -> Any:
    """Loads the rewards, and trains by the algorithm that was asked for; returns the outcome."""
    from core.models.load import load_tokenizer
    from launch.parts import policy_hook
    from launch.rewards import anywhere, build_terms, critic_source
    from ppo.config import Algo
    from ppo.train import train

    scorer = build_terms(job, sources, prompts, say=print if world.is_main else _silent)
    elsewhere = anywhere(scorer)  # a verifier knows the training prompts alone
    static = world.from_main(lambda: _static_scores(elsewhere, rows, run_dir)) if elsewhere else {}
    hook = policy_hook(job.hooks, job.tasks, elsewhere, static)
    common: dict[str, Any] = {
        "prompts": [prompt.dialogue for prompt in prompts],
        "scorer": scorer,
        "hooks": [hook],
        "tracker": tracker,
        "progress": progress,
    }
    if job.algo != Algo.ppo:
        from ppo.critic_free.train import train_grouped

        return train_grouped(job, run_dir, **common)
    reward_model = critic_source(scorer, load_tokenizer(job.model), job)
    if job.critic == "reward" and reward_model is None and world.is_main:
        print("note: no reward model reads the policy's tokens, so the critic starts from the policy.")
    return train(job, run_dir, reward_model=reward_model, world=world, **common)


def _tidy(run_dir: Path) -> None:
    """What a finished run gets and loses: its picture, and what only resuming needs."""
    from core.engines.resume import forget_states
    from evalhooks.report import write_over_optimisation

    picture = run_dir / "over_optimisation.png"
    if not picture.exists():
        write_over_optimisation(run_dir, picture)
    forget_states(run_dir)


def _static_scores(scorer: Any, rows: Any, run_dir: Path) -> dict[str, float]:
    """RewardBench 2 of the rewards, which stay what they are: scored once for a run."""
    from core.disk import write_json
    from evalhooks.checkpoints import static_scores

    cache = run_dir / "static.json"
    if not rows:
        return {}
    if not cache.exists():
        write_json(cache, static_scores(scorer, rows))
    return {name: float(value) for name, value in json.loads(cache.read_text(encoding="utf-8")).items()}


def _lineage(job: Any, sources: Any) -> dict[str, Any]:
    """Where policy, prompts and rewards come from, and what does not fit."""
    from core.models.origin import lineage_of, origin_of, prompt_sources, run_id_of
    from evalhooks.lineage import lineage_summary

    models = {
        name: model
        for name, source in sources.items()
        for key, model in source.models.items()
        if key in ("path", "members[0]")  # the members of an ensemble are of a kind
    }
    found: dict[str, Any] = {"base": lineage_of(job.model), "model": job.model.path}
    first = next(iter(sources))
    found["reward"] = sources[first].name
    found["reward_base"] = lineage_of(models[first]) if first in models else sources[first].name
    found["reward_run"] = run_id_of(models[first].path) if first in models else sources[first].name
    origins = {name: origin_of(model) for name, model in models.items()}
    return found | lineage_summary(origin_of(job.model), origins, prompt_sources(job.prompts))


def _name(job: Any, lineage: dict[str, Any]) -> str:
    """What the run is called: the policy, and the reward that it is trained by."""
    from ppo.config import Algo

    algo = "" if job.algo == Algo.ppo else f"{job.algo}-"
    rewards = lineage["reward_base"].rpartition("/")[2].replace(":", "-")
    lora = f"-lora{job.lora.rank}" if job.lora.rank else ""
    return f"{algo}{lineage['base'].rpartition('/')[2]}-by-{rewards}{lora}"


def _command(composed: Composed) -> dict[str, Any]:
    record = run(composed, console_progress())
    if rank() > 0:
        return record
    best = ", ".join(f"{key} {value:.3f}" for key, value in record["best"].items() if value is not None)
    print(f"{record['dir']}: best at step {record['best_step']}: {best}")
    return record


def _silent(line: str) -> None:
    """What one process says, the others need not repeat."""


def main() -> None:
    """Entry point."""
    start("ppo", _command)


if __name__ == "__main__":
    main()
