"""PPO runs read from their folders: metrics of one run, of an arm over several seeds, and a plot of them."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppo.state import over_optimised

LAST_BATCHES = 10
"""The final KL is the mean over these: the KL of a single batch of 128 answers is mostly noise."""

COLOURS = ("#2f7ed8", "#c9444f", "#1a9c7c", "#b8860b", "#9a5fc9", "#7c8794")


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The checkpoints of one PPO run, the untrained policy's first, and how the run ended.

    `downstream` is the true objective, in points of 100; `scores` are the reward's mean scores of the policy's answers to the
    same prompts, which the stop uses; `kl_end` is the mean KL to the reference over the last batches, in nats per completion,
    and `target` the KL target (None: no target).

    >>> Curve(steps=[0, 9], downstream=[50.0, 58.0], scores=[0.0, 1.0], kl_end=0.4, target=0.5).gain
    8.0
    """

    steps: list[int]
    downstream: list[float]
    scores: list[float]
    kl_end: float
    target: float | None
    stopped_because: str = ""

    @property
    def peak(self) -> int:
        """Index of the best checkpoint; the untrained policy is a candidate, so a run that only gets worse gains 0."""
        return max(range(len(self.steps)), key=self.downstream.__getitem__)

    @property
    def gain(self) -> float:
        """Points from the untrained policy to the best checkpoint."""
        return self.downstream[self.peak] - self.downstream[0]

    @property
    def change(self) -> float:
        """Points from the untrained policy to the last checkpoint."""
        return self.downstream[-1] - self.downstream[0]

    @property
    def lost(self) -> float | None:
        """Share of the gain that the last checkpoint has lost again; None if nothing was gained."""
        return (self.gain - self.change) / self.gain if self.gain else None

    @property
    def deceived(self) -> bool:
        """Whether the reward rose from the best checkpoint to the last while the true objective fell."""
        return self.scores[-1] > self.scores[self.peak] and self.downstream[-1] < self.downstream[self.peak]


def read_curve(run_dir: Path) -> Curve:
    """The curve of a finished run. Raises `ValueError` if the run is not finished or has no downstream metric."""
    record = json.loads((run_dir / "record.json").read_text(encoding="utf-8"))
    if record["status"] != "finished":
        raise ValueError(f"{run_dir} is {record['status']}, not finished; start its command again.")
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    # An interrupted and resumed run may have logged some steps twice; the later row counts.
    checkpoints = {row["checkpoint/step"]: row for row in rows if row["axis"] == "checkpoint/step"}
    batches = {row["train/step"]: row for row in rows if row["axis"] == "train/step"}
    if not all("downstream/average" in row for row in checkpoints.values()):
        raise ValueError(f"{run_dir} has no downstream/average; its command needs tasks.")
    return Curve(
        steps=sorted(checkpoints),
        downstream=[100 * checkpoints[step]["downstream/average"] for step in sorted(checkpoints)],
        # If no reward can score the tasks' answers (a verifier only knows its own prompts), the batch's scores are used.
        scores=[checkpoints[step].get("on_policy/rm_score", checkpoints[step]["rm_score"]) for step in sorted(checkpoints)],
        kl_end=statistics.mean(batches[step]["train/kl"] for step in sorted(batches)[-LAST_BATCHES:]),
        target=record["identity"]["kl"]["target"],
        stopped_because=record["stopped_because"],
    )


def replayed(curve: Curve, num_falls: int, every: int) -> Curve:
    """The run as it would have been with stop_after_falls=`num_falls` and only every `every`-th checkpoint.

    The stop changes nothing before it fires, so a run without it shows what each setting would have done. If it would not
    have fired, the curve is complete.
    """
    kept = range(0, len(curve.steps), every)
    whole = {"steps": curve.steps, "downstream": curve.downstream, "scores": curve.scores}
    columns = {key: [values[place] for place in kept] for key, values in whole.items()}
    for end in range(1, len(kept) + 1):
        if over_optimised(columns["downstream"][:end], columns["scores"][:end], num_falls):
            cut = {key: values[:end] for key, values in columns.items()}
            return replace(curve, **cut, stopped_because=f"replayed with stop_after_falls={num_falls}")
    return replace(curve, **columns, stopped_because="")


def interval_of_difference(left: Sequence[float], right: Sequence[float]) -> tuple[float, float]:
    """Mean of the paired differences `left` - `right`, and half the width of its 95% interval by Student's t."""
    from scipy import stats  # takes half a second to import and is only needed here

    differences = [a - b for a, b in zip(left, right, strict=True)]
    if len(differences) < 2:
        raise ValueError("one seed tells nothing about noise; give at least two, as in --seeds 0 1 2.")
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.mean(differences), float(stats.t.ppf(0.975, len(differences) - 1)) * error


def draw(arms: Mapping[str, Sequence[Curve]], file: Path) -> Path:
    """Plots the true objective and the reward side by side: the mean of each arm over its seeds, and their range."""
    figure = Figure(figsize=(10.5, 4.2), layout="constrained", dpi=140)
    wanted, rewarded = figure.subplots(1, 2)
    for colour, (name, curves) in zip(COLOURS, arms.items(), strict=False):
        _band(wanted, [(curve.steps, curve.downstream) for curve in curves], name, colour)
        # Reward models differ in scale and offset, so the change since the start is shown.
        _band(rewarded, [(curve.steps, [score - curve.scores[0] for score in curve.scores]) for curve in curves], name, colour)
        for curve in curves:
            if curve.stopped_because:
                wanted.plot(curve.steps[-1], curve.downstream[-1], "X", color=colour, markersize=8, markeredgecolor="white")
    for axes, title in ((wanted, "downstream average, points"), (rewarded, "mean score of the policy's answers, change")):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("batch")
        axes.grid(color="#e9ecf0")
        axes.spines[["top", "right"]].set_visible(False)
    wanted.legend(frameon=False, fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    return file


def _band(axes: Axes, lines: Sequence[tuple[Sequence[int], Sequence[float]]], name: str, colour: str) -> None:
    """Mean and range by checkpoint, up to the last one that every seed has; after it, each seed's own line."""
    shared = min((steps for steps, _ in lines), key=len)
    columns = list(zip(*(values[: len(shared)] for _, values in lines), strict=True))
    axes.plot(shared, [statistics.mean(column) for column in columns], "o-", color=colour, markersize=3, label=name)
    axes.fill_between(shared, list(map(min, columns)), list(map(max, columns)), color=colour, alpha=0.15, linewidth=0)
    for steps, values in lines:
        if len(steps) > len(shared):
            axes.plot(steps[len(shared) - 1 :], values[len(shared) - 1 :], "-", color=colour, linewidth=0.8, alpha=0.6)
