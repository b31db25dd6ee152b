"""`rewardloop bon generators RUN RUN ...`: which policy's pools tell reward models apart (RewardBench 2 paper, appendix I.1)."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bon.ensembles import MEMBERS
from core.disk import read_json
from core.runs.record import RunStatus, value_at
from core.text import printable
from evalhooks.analysis.correlation import correlation
from launch.entry import refuse
from launch.history.find import one_run
from launch.jobs.bon_result import RESULT

HELP = """usage: rewardloop bon generators RUN [RUN ...] [out=generators.csv] [runs_dir=runs]

Compares the pools behind finished runs of `rewardloop bon`, one policy each, scored by the same rewards: which of them tells reward
models apart? For every policy:
  random        accuracy of a random completion
  headroom      how much more a perfect reward would reach, choosing among all
  mixed         share of prompts with right and wrong completions: the others say nothing about a reward
  spread        standard deviation over rewards of their accuracy
  between tasks mean correlation, over all pairs of tasks, of the rewards' accuracies (3 rewards and 2 tasks at least)
The paper chose the generator with headroom and a high correlation between tasks; stronger ones had neither."""

MIN_REWARDS = 3
"""Rewards below which a correlation over them says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generator:
    """What the pools of one policy are good for, over the rewards that chose from them; shares from 0 to 1.

    >>> Generator(name="a", tasks=1, rewards=2, n=16, random=0.4, headroom=0.3, mixed=0.5, spread=0.02, between_tasks=None).headroom
    0.3
    """

    name: str
    tasks: int
    rewards: int
    n: int
    random: float
    headroom: float
    mixed: float
    spread: float | None
    between_tasks: float | None


def main(argv: Sequence[str]) -> None:
    """Prints the comparison, and writes it if `out` is given; exits with 2 and a message for what cannot be compared."""
    if {"-h", "--help"} & set(argv) or not argv:
        print(HELP)
        return
    try:
        settings = dict(text.split("=", 1) for text in argv if "=" in text)
        if unknown := sorted(settings.keys() - {"out", "runs_dir"}):
            raise ValueError(f"{unknown[0]}={settings[unknown[0]]} is unknown; the settings are out=... and runs_dir=....")
        runs_dir = Path(settings.get("runs_dir", "runs")).expanduser()
        found = compared([one_run(text, runs_dir) for text in argv if "=" not in text])
        if "out" in settings:
            _write(Path(settings["out"]).expanduser(), found)
    except (ValueError, OSError) as error:
        refuse(f"bon generators: {error}")
    _print(found)


def compared(records: Sequence[Mapping[str, Any]]) -> list[Generator]:
    """The policies of finished runs of best-of-N. Raises `ValueError` for another run, and where the rewards are not the same."""
    results: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if record["job"] != "bon" or record["status"] != RunStatus.finished:
            raise ValueError(f"{record['dir']} is a {record['status']} run of {record['job']}; name finished runs of `rewardloop bon`.")
        results[str(record["dir"])] = read_json(Path(record["dir"]) / RESULT, remedy="run its job again")
    for place, result in results.items():
        if not result["tasks"]:
            raise ValueError(f"{place} has no task whose correctness is known, so its pools cannot be judged.")
    first, *others = results
    for place in others:
        for what in ("rewards", "tasks"):
            if set(results[place][what]) != set(results[first][what]):
                differ = sorted(set(results[place][what]) ^ set(results[first][what]))
                raise ValueError(f"{place} and {first} have other {what} ({', '.join(differ[:4])}); run both with the same {what}.")
    names = [str(value_at(record, "lineage.model") or value_at(record, "lineage.pools") or record["dir"]) for record in records]
    ends = [Path(name).name for name in names]
    shown = ends if len(set(ends)) == len(ends) else names
    return [generator_of(name, results[str(record["dir"])]) for name, record in zip(shown, records, strict=True)]


def generator_of(name: str, result: Mapping[str, Any]) -> Generator:
    """What one policy's pools are good for, from the result of its run."""
    tasks: Mapping[str, Any] = result["tasks"]
    rewards = [reward for reward in result["rewards"] if not reward.startswith(f"{MEMBERS}-")]
    n = min(found["n"] for found in tasks.values())
    by_reward = {reward: [found["signals"][reward]["accuracy"][n - 1]["value"] for found in tasks.values()] for reward in rewards}
    series = list(zip(*by_reward.values(), strict=True))  # by task
    pairs = [value for a, b in combinations(series, 2) if (value := correlation(a, b).pearson) is not None]
    means = [fmean(values) for values in by_reward.values()]
    return Generator(
        name=name,
        tasks=len(tasks),
        rewards=len(rewards),
        n=n,
        random=fmean(found["random"]["value"] for found in tasks.values()),
        headroom=fmean(found["oracle"][n - 1]["value"] - found["random"]["value"] for found in tasks.values()),
        mixed=fmean(found["mixed"] for found in tasks.values()),
        spread=pstdev(means) if len(means) > 1 else None,
        between_tasks=fmean(pairs) if pairs else None,
    )


def _print(found: Sequence[Generator]) -> None:
    table = Table(title="which pools tell reward models apart", title_justify="left")
    table.add_column("policy", overflow="fold")
    for column in ("tasks", "rewards", "n", "random", "headroom", "mixed", "spread", "between tasks"):
        table.add_column(column, justify="right")
    for one in found:
        shares = [_points(value) for value in (one.random, one.headroom, one.mixed, one.spread)]
        between = "n/a" if one.between_tasks is None else f"{one.between_tasks:+.2f}"
        table.add_row(escape(printable(one.name)), str(one.tasks), str(one.rewards), str(one.n), *shares, between)
    Console().print(table)
    if any(one.between_tasks is None for one in found):
        print(f"between tasks: needs {MIN_REWARDS} rewards and 2 tasks in which they differ")
    print("points of 100; choose headroom, mixed and between tasks high: docs/best-of-n.md says why")


def _points(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def _write(path: Path, found: Sequence[Generator]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        names = ["name", "tasks", "rewards", "n", "random", "headroom", "mixed", "spread", "between_tasks"]
        writer.writerow(names)
        writer.writerows([getattr(one, name) for name in names] for one in found)
    print(path)
