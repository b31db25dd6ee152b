"""Reads the summary of a study into typed records, so that tables, charts and page agree on names, order and gaps.

Everything in a summary but its outline may be missing or null: a study can be interrupted, have no PPO, or lack a
domain. A missing number is `None` here and is reported as missing wherever it would appear.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from evalhooks.metric_names import link_name, metric_name
from evalhooks.rewardbench.domains import OVERALL, label_of

Scores = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardModel:
    """One RM with its final scores (0..1) and those at its checkpoints (metric name -> value, and "step")."""

    id: str
    name: str
    base: str
    data: str
    lr: float | None
    epochs: float | None
    seed: int | None
    control: bool
    benchmark: Scores
    benchmark_reason: str
    pairwise: Scores
    bon: Scores
    bon_n: int | None
    checkpoints: tuple[Scores, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    """What `evalhooks.report.gathered` found beside the scores."""
    score_key: str = OVERALL
    """`Study.score_key`."""
    dir: str = ""
    """The folder of its run, which may be gone: a summary outlives its runs."""

    @property
    def overall(self) -> float | None:
        """RewardBench 2 overall, or the mean that the study has instead; `Study.score_name` says what it is."""
        return self.benchmark.get(self.score_key)

    @property
    def bon_average(self) -> float | None:
        """Accuracy of best-of-N, averaged over the tasks."""
        return self.bon.get("average")


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """How well one benchmark score goes with one downstream score: `key` is "<benchmark>~<downstream>[ (subset)]".

    `low` and `high` bound the 95% interval of `pearson`.
    """

    key: str
    pearson: float | None
    spearman: float | None
    low: float | None
    high: float | None
    n: int | None
    spearman_low: float | None = None
    spearman_high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PpoRun:
    """One PPO run: downstream accuracy (0..1) at its start, its best checkpoint and its last one."""

    id: str
    name: str
    rm: str
    rm_base: str
    policy_base: str
    start: float | None
    best: float | None
    best_step: int | None
    last: float | None
    checkpoints: tuple[Scores, ...]
    same_lineage: str = ""
    """"yes", "no" or "unknown", as `core.models.origin` found; empty in records of before, where names are compared."""
    warnings: tuple[str, ...] = ()
    """Reasons against the RM that were known before training, and what the run warned of."""
    stopped_because: str = ""
    """Why the run was stopped early for over-optimisation, if it was."""
    status: str = "finished"
    details: Mapping[str, Any] = field(default_factory=dict)
    """As those of a reward model."""

    @property
    def gain(self) -> float | None:
        """Best checkpoint minus start, or None where either is missing."""
        return None if self.best is None or self.start is None else self.best - self.start

    @property
    def lineage(self) -> str:
        """Whether the RM and the policy grew from one base model."""
        if self.same_lineage:
            return {"yes": "same lineage", "no": "other lineage"}.get(self.same_lineage, "unknown lineage")
        if not self.rm_base or not self.policy_base:
            return ""
        return "same lineage" if self.rm_base == self.policy_base else "other lineage"


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """The whole summary; `models` are sorted by RewardBench 2 overall, best first and unscored last."""

    name: str
    wall_s: float | None
    policy_id: str
    policy_lineage: str
    start: Scores
    oracle: Scores
    random: Scores
    models: tuple[RewardModel, ...]
    links: Mapping[str, Link]
    runs: tuple[PpoRun, ...]
    notes: tuple[str, ...]
    score_key: str = OVERALL
    """What the reward models are compared by: `overall`, or the key of a mean over some of the domains."""
    findings: Mapping[str, Any] | None = None
    """What `evalhooks.analysis.findings` says of the reward models; None where nothing could be compared."""

    @property
    def score_name(self) -> str:
        """What that is called: "overall", or "mean of 5: no Precise IF"."""
        return label_of(self.score_key)

    @property
    def score_title(self) -> str:
        """The same as the head of a column."""
        return self.score_name[0].upper() + self.score_name[1:]

    @property
    def main_link(self) -> str:
        """The correlation that the study is about."""
        return f"rewardbench2/{self.score_key}~bon/average"

    @property
    def main_links(self) -> tuple[str, ...]:
        """The keys of the main correlation over all reward models, the upper half, and without controls, in this order."""
        return tuple(f"{self.main_link}{part}" for part in ("", " (upper half)", " (without controls)"))

    @property
    def tasks(self) -> list[str]:
        """The best-of-N tasks in order of first appearance, without their average."""
        seen = dict.fromkeys(task for scores in (*(rm.bon for rm in self.models), self.start) for task in scores)
        return [task for task in seen if task != "average"]

    @property
    def bon_name(self) -> str:
        """ "best of 16", or "best of N" where the RMs were not given pools of one size."""
        return best_of(rm.bon_n for rm in self.models)

    def metric_name(self, metric: str) -> str:
        """What people read for a metric."""
        return metric_name(metric, best_of=self.bon_name)

    def link_name(self, key: str) -> str:
        """What people read for a correlation."""
        return link_name(key, self.metric_name)

    @property
    def mixes(self) -> list[str]:
        """The preference mixes, most used first; charts take their colours in this order."""
        return [data for data, _ in sorted(Counter(rm.data for rm in self.models).items(), key=lambda item: (-item[1], item[0]))]

    @property
    def bases(self) -> list[str]:
        """The lineages of the RMs, the policy's own first; charts take their marks in this order."""
        return sorted({rm.base for rm in self.models}, key=lambda base: (base != self.policy_lineage, base))


def best_of(sizes: Iterable[int | None]) -> str:
    """What best-of-N is called, from how many completions each reward model chose.

    >>> best_of([16, None, 16]), best_of([4, 16])
    ('best of 16', 'best of N')
    """
    known = {size for size in sizes if size}
    return f"best of {known.pop()}" if len(known) == 1 else "best of N"


def clean(value: Any) -> Any:
    """The value as JSON can hold it: numbers that are not finite become null, anything JSON does not know becomes text."""
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return clean(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


def read(summary: Mapping[str, Any]) -> Study:
    """The records of a summary; whatever it lacks is None or empty."""
    summary = clean(summary)
    policy = summary.get("policy") or {}
    score = str(summary.get("score") or OVERALL)
    models = [_reward_model(item, score) for item in summary.get("reward_models") or []]
    names = {rm.id: rm.name for rm in models}
    links = [_link(key, item or {}) for key, item in (summary.get("correlation") or {}).items()]
    return Study(
        name=str(summary.get("study") or "study"),
        wall_s=summary.get("wall_s"),
        policy_id=str(policy.get("id") or ""),
        policy_lineage=_base(policy.get("lineage")),
        start=policy.get("start") or {},
        oracle=policy.get("oracle") or {},
        random=policy.get("random") or {},
        models=tuple(sorted(models, key=lambda rm: (rm.overall is None, -(rm.overall or 0.0), rm.name))),
        links={link.key: link for link in links},
        runs=tuple(_ppo_run(item, names) for item in summary.get("ppo") or []),
        notes=tuple(str(note) for note in summary.get("notes") or []),
        score_key=score,
        findings=summary.get("findings"),
    )


def _reward_model(item: Mapping[str, Any], score: str) -> RewardModel:
    benchmark = item.get("rewardbench2") or {}
    reason = item.get("rewardbench2_reason") or benchmark.get("rewardbench2_reason")
    identity = str(item.get("id") or "")
    return RewardModel(
        id=identity,
        name=str(item.get("name") or identity or "unnamed"),
        base=_base(item.get("base")),
        data=str(item.get("data") or "unknown data"),
        lr=item.get("lr"),
        epochs=item.get("epochs"),
        seed=item.get("seed"),
        control=bool(item.get("control")),
        benchmark=_numbers(benchmark),
        benchmark_reason=str(reason or ""),
        pairwise=_numbers(item.get("rewardbench1") or {}),
        bon=_numbers(item.get("bon") or {}),
        bon_n=item.get("bon_n"),
        checkpoints=_by_step(item.get("checkpoints")),
        details=item.get("details") or {},
        score_key=score,
        dir=str(item.get("dir") or ""),
    )


def _link(key: str, item: Mapping[str, Any]) -> Link:
    low, high = item.get("ci95") or (None, None)
    spearman_low, spearman_high = item.get("spearman_ci95") or (None, None)  # summaries of before lack it
    return Link(
        key=key,
        pearson=item.get("pearson"),
        spearman=item.get("spearman"),
        low=low,
        high=high,
        n=item.get("n"),
        spearman_low=spearman_low,
        spearman_high=spearman_high,
    )


def _ppo_run(item: Mapping[str, Any], rm_names: Mapping[str, str]) -> PpoRun:
    identity, rm = str(item.get("id") or ""), str(item.get("rm") or "unknown RM")
    return PpoRun(
        id=identity,
        name=str(item.get("name") or identity or "unnamed"),
        rm=rm_names.get(rm, rm),
        rm_base=_base(item.get("rm_base")),
        policy_base=_base(item.get("policy_base")),
        start=item.get("start_average"),
        best=item.get("best_average"),
        best_step=item.get("best_step"),
        last=item.get("last_average"),
        checkpoints=_by_step(item.get("checkpoints")),
        same_lineage=str(item.get("same_lineage") or ""),
        warnings=tuple(str(warning) for warning in item.get("warnings") or []),
        stopped_because=str(item.get("stopped_because") or ""),
        status=str(item.get("status") or "finished"),
        details=item.get("details") or {},
    )


def _base(value: Any) -> str:
    """A base model may be a path on someone's disk; its last part is what a reader knows it by."""
    return PurePath(str(value or "")).name


def _numbers(scores: Mapping[str, Any]) -> dict[str, float | None]:
    return {key: value for key, value in scores.items() if value is None or isinstance(value, int | float)}


def _by_step(checkpoints: Iterable[Mapping[str, Any]] | None) -> tuple[Scores, ...]:
    rows = [_numbers(row) for row in checkpoints or [] if row.get("step") is not None]
    return tuple(sorted(rows, key=lambda row: row["step"] or 0))


def series(checkpoints: Sequence[Scores], metric: str) -> tuple[list[float], list[float]]:
    """Steps and values of `metric`, or of the best-of-N pool size at hand: "bon/average" also finds "bon/average@16"."""
    steps, values = [], []
    for row in checkpoints:
        value = next((row[key] for key in row if key.split("@")[0] == metric), None)
        if value is not None:
            steps.append(row["step"])
            values.append(value)
    return steps, values


def points(value: float | None, *, sign: bool = False) -> str:
    """A share as points on a scale of 0 to 100: `0.8449` -> "84.5", with `sign` "+84.5"; a missing one is "n/a"."""
    if value is None:
        return "n/a"
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def number(value: float | None, digits: int = 2) -> str:
    """A plain number with `digits` decimals; a missing one is "n/a"."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def shorten(text: str, width: int) -> str:
    """`text`, cut in its middle where it is longer than `width`: runs of a sweep differ at the end of their names.

    >>> shorten("smollm2-135m-mine-lr3e-5-e1", 20)
    'smollm2-1...r3e-5-e1'
    """
    end = (width - 3) // 2
    return text if len(text) <= width else f"{text[: width - 3 - end]}...{text[len(text) - end :]}"
