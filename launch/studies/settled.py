"""A study over several seeds as a job: all of it runs, and one report says whether one way to pick reward models is better than another."""

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from core.runs.record import settle_killed
from evalhooks.analysis.settle import Criterion, Picked, settle
from evalhooks.report.joined import reranked
from evalhooks.report.run_scores import best_policy
from evalhooks.report.settled import print_settled, write_settled
from evalhooks.report.summary import best_of_n, ppo_entry, short_name
from launch import bon
from launch.jobs.lifecycle import Record
from launch.jobs.report import Summary
from launch.parallel.scheduler import Results
from launch.rewards.choice import By, label_of, scores
from launch.schema import BoNJob, StudyJob
from launch.studies.config import RewardChoice
from launch.studies.plan import Plan
from launch.studies.seeds import at, folder_of
from launch.studies.study import failures_of, require_none, run_all
from launch.studies.time_spent import TimeSpent
from launch.studies.uses import Use, chosen, notes

PPO = "PPO"
"""The use whose worth is that of a policy's best checkpoint, chosen on one half of the prompts and reported on the other."""


def run(study: StudyJob, studies: Mapping[int, StudyJob], plans: Mapping[int, Plan]) -> tuple[Summary, Path]:
    """Runs whatever is not finished yet at any seed; returns the summary and the path of its report.

    If jobs failed, raises `RuntimeError` at the end; the report then covers the seeds that have something to compare.
    """
    folder, jobs = folder_of(study), [job for plan in plans.values() for job in plan.jobs]
    spent, begun = TimeSpent(folder), datetime.now(UTC).isoformat(timespec="milliseconds")
    results = run_all(jobs, study, folder, spent)
    failures = failures_of(results)
    for own in studies.values() if failures else ():
        settle_killed(folder_of(own), "its process was killed")
    found = {seed: (plan.uses, at(results, seed)) for seed, plan in plans.items()}
    if not any(_done(*own) for own in found.values()):
        raise RuntimeError("; ".join(failures))
    finished = [str(record.get("finished", begun)) for record in results.values() if isinstance(record, dict)]
    worked = bool(failures) or not all(time < begun for time in finished)
    summary = summarize(study, found) | {"wall_s": round(spent.total(worked=worked), 1)}
    path = write_settled(summary, folder / "report")
    require_none(failures, len(jobs), path)
    return summary, path


def show(summary: Summary, path: Path) -> None:
    """Prints the tables of a report, its answer, and where it lies."""
    print_settled(summary, path, Console(width=None if sys.stdout.isatty() else 120))


def summarize(study: StudyJob, found: Mapping[int, tuple[Sequence[Use], Results]]) -> dict[str, Any]:
    """What was picked at each seed and what it is worth, and the comparison over the seeds."""
    named = {use.setting: use for uses, _ in found.values() for use in uses}
    rows = [_row(seed, use, results) for seed, (uses, results) in found.items() for use in _done(uses, results)]
    labels = _labels(list(named.values()))
    comparisons, answers = list[dict[str, Any]](), list[str]()
    for kind in ("ppo", "bon"):
        own = [setting for setting in named if setting.startswith(f"{kind}.")]
        if len(own) < 2:
            continue
        first = named[own[0]].choice
        criteria = [Criterion(name=name, label=labels[name], recipe=_is_recipe_of(named[name].choice, first)) for name in own]
        picks = [
            Picked(seed=row["seed"], criterion=row["criterion"], reward_model=row["id"], worth=row["worth"])
            for row in rows
            if row["criterion"] in own
        ]
        told = settle(picks, criteria)
        comparisons += told["comparisons"]
        answers.append(told["answer"])
    return {
        "study": study.study,
        "seeds": list(found),
        "uses": list(dict.fromkeys(name for row in rows for name in row["worth"])),
        "picks": [row | {"label": labels[row["criterion"]]} for row in rows],
        "comparisons": comparisons,
        "answer": " ".join(answers),
        "notes": [*study.notes, *_context(found), *_without_best_of(rows), *_shared(found), *_elsewhere(study, found)],
    }


def _done(uses: Sequence[Use], results: Results) -> list[Use]:
    """The uses that have a run."""
    return [use for use in uses if isinstance(results.get(use.key), dict)]


def _labels(uses: Sequence[Use]) -> dict[str, str]:
    """What each use is called: what it picks by where that tells it from the others, else its own name."""
    plain = {use.setting: (use.choice.lineage, use.choice.control, use.choice.pick) for use in uses}
    if len(set(plain.values())) > 1:
        return {use.setting: use.setting for use in uses}
    labels = {use.setting: f"{label_of(use.choice.by)}{', its recipe' if use.choice.recipe else ''}" for use in uses}
    counts = Counter((setting.partition(".")[0], label) for setting, label in labels.items())
    return {setting: label if counts[setting.partition(".")[0], label] == 1 else setting for setting, label in labels.items()}


def _is_recipe_of(choice: RewardChoice, first: RewardChoice) -> bool:
    return choice.recipe and not first.recipe and (choice.by, choice.lineage, choice.pick) == (first.by, first.lineage, first.pick)


def _row(seed: int, use: Use, results: Results) -> dict[str, Any]:
    """What a use picked at a seed, and what that is worth in each use."""
    record, taken = results[use.key], chosen(use, results)
    assert isinstance(record, dict)
    [score] = [None] if use.choice.recipe or use.choice.by == By.random else scores([taken], use.choice.by)
    worth = _best_of(taken, results)
    if isinstance(use.job, BoNJob):
        found = bon.result_of(record)
        own = next(iter(found.rewards.values()))  # others, of the user's own, come after the chosen one
        worth = {f"best of {found.n}": value} if (value := own.get(f"bon/average@{found.n}")) is not None else {}
    else:
        worth |= {PPO: value} if (value := best_policy([ppo_entry(record)])[0]) is not None else {}
    return {
        "seed": seed,
        "criterion": use.setting,
        "id": str(taken["id"]),
        "name": short_name(Path(taken["dir"])),
        "dir": str(taken["dir"]),
        "run": str(record["dir"]),
        "score": score,
        "worth": worth,
    }


def _best_of(record: Record, results: Results) -> dict[str, float]:
    """The average best-of-N accuracy of a reward model on the study's pools, where its hooks or a job of the study measured it."""
    jobs = [result for result in results.values() if isinstance(result, dict) and result.get("job") == "bon"]
    for final in (record.get("final", {}), reranked(jobs).get(str(record["id"]), {})):
        n, value = best_of_n({"final": final})
        if value is not None:
            return {f"best of {n}": value}
    return {}


def _without_best_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """That what was picked was not given the pools, by whose worth in best-of-N other picks are compared."""
    lack = [row for row in rows if not any(use.startswith("best of ") for use in row["worth"])]
    for criterion in dict.fromkeys(row["criterion"] for row in lack):
        seeds = [str(row["seed"]) for row in lack if row["criterion"] == criterion]
        yield (
            f"{criterion} is not compared in best-of-N at {'seed' if len(seeds) == 1 else 'the seeds'} {', '.join(seeds)}: the reward "
            "model that it took has not chosen from the study's pools; give reward models hooks.pools, or have bon among the parts."
        )


def _context(found: Mapping[int, tuple[Sequence[Use], Results]]) -> Iterator[str]:
    """What there was to gain: the mean and the best of those that the first use picks from."""
    parts: list[tuple[str, float, float]] = []
    for uses, results in found.values():
        records = [record for key in uses[0].candidates if isinstance(record := results.get(key), dict)]
        worth = [own for record in records if (own := _best_of(record, results))]
        if worth:
            [name] = worth[0]
            values = [own[name] for own in worth if name in own]
            parts.append((name, fmean(values), max(values)))
    if parts:
        mean, best = (100 * fmean(values) for values in zip(*[part[1:] for part in parts], strict=True))
        yield f"The reward models to pick from reach {mean:.1f} on average in {parts[0][0]}, and the best of each seed {best:.1f}."


def _elsewhere(study: StudyJob, seeds: Collection[int]) -> Iterator[str]:
    """Seeds that were run before and are not asked for now."""
    folder = folder_of(study)
    marks = (place.name.removeprefix(f"{folder.name}-seed") for place in sorted(folder.parent.glob(f"{folder.name}-seed*")))
    others = sorted(int(mark) for mark in marks if mark.removeprefix("-").isdecimal() and int(mark) not in seeds)
    if others:
        whole = ",".join(map(str, sorted([*seeds, *others])))
        yield f"Not in this report: what was run at the seeds {', '.join(map(str, others))}; seeds=[{whole}] puts all of it together."


def _shared(found: Mapping[int, tuple[Sequence[Use], Results]]) -> Iterator[str]:
    for seed, (uses, results) in found.items():
        yield from (f"Seed {seed}: {note}" for note in notes(uses, results))
