"""A study's panels in Weights & Biases: benchmark, downstream, on-policy accuracy and KL, and training, beside each other."""

import json
import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from core.records import AXIS
from evalhooks.rewardbench.domains import DOMAINS

if TYPE_CHECKING:  # an extra, and takes seconds to import
    from wandb_workspaces.workspaces import Section, Workspace

MAX_RUNS = 50
"""Runs in a panel; W&B shows 10 by default."""
_TRAINING = "train/step"
_REWARD_MODEL, _POLICY = ("train/loss", "train/accuracy"), ("train/score", "train/kl", "train/policy_loss", "train/value_loss")


def workspace(
    *, entity: str, project: str, study: str, checkpoint_metrics: Collection[str], training_metrics: Collection[str]
) -> "Workspace":
    """The workspace of a study, of the metrics that its runs logged on the axes `checkpoint/step` and `train/step`; nothing is sent.

    Every panel is on the axis to which its metric is bound. The scatter shows the last value of each run.
    """
    ws, _ = _library()
    there, trained = set(checkpoint_metrics), set(training_metrics)
    sections = [
        _section("Benchmark", _lines(AXIS, _benchmarks(there))),
        _section("Downstream", _lines(AXIS, _downstream(there))),
        _section("Benchmark against downstream", _scatters(there)),
        _section("On-policy accuracy and KL", _lines(AXIS, _ordered(there, ("on_policy/", "kl", "rm_score", "held_out/accuracy")))),
        _section("Training", _lines(_TRAINING, [name for name in (*_REWARD_MODEL, *_POLICY) if name in trained])),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"rewardloop {study}",
        sections=[section for section in sections if section.panels],
        settings=ws.WorkspaceSettings(x_axis=AXIS, max_runs=MAX_RUNS),
        runset_settings=ws.RunsetSettings(filters=f"Group == {study!r}"),
        auto_generate_panels=False,
    )


def specification(made: "Workspace") -> dict[str, Any]:
    """What is sent to W&B for a workspace, as JSON."""
    return json.loads(made._to_model().model_dump_json(by_alias=True, exclude_none=True))  # pyright: ignore[reportPrivateUsage]


def _library() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own use of pydantic
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    return workspaces, panels


def _section(name: str, panels: Sequence[Any]) -> "Section":
    ws, _ = _library()
    return ws.Section(
        name=name,
        panels=list(panels),
        is_open=True,
        layout_settings=ws.SectionLayoutSettings(columns=3, rows=max(1, -(-len(panels) // 3))),
        panel_settings=ws.SectionPanelSettings(x_axis=_TRAINING if name == "Training" else AXIS),
    )


def _lines(axis: str, names: Sequence[str]) -> list[Any]:
    _, panels = _library()
    return [panels.LinePlot(title=name, x=axis, y=[name], max_runs_to_show=MAX_RUNS) for name in names]


def _scatters(there: Collection[str]) -> list[Any]:
    """Of reward models benchmark against best-of-n, of policies accuracy on their own answers against downstream: a point is one run."""
    _, panels = _library()
    benchmarks = [name for name in _benchmarks(there) if name not in _domains()]
    pairs = [(x, y) for x in benchmarks for y in _downstream(there) if y.startswith("bon/average@")]
    pairs += [(x, y) for x, y in (("on_policy/rm_accuracy", "downstream/average"),) if x in there and y in there]
    return [
        panels.ScatterPlot(title=f"{x} and {y}", x=panels.SummaryMetric(x), y=panels.SummaryMetric(y), regression=True) for x, y in pairs
    ]


def _domains() -> list[str]:
    return [f"rewardbench2/{domain}" for domain in DOMAINS]


def _benchmarks(there: Collection[str]) -> list[str]:
    """The whole first, then its domains, then RewardBench 1."""
    of_two = _ordered(there, ("rewardbench2/",))
    first = ["rewardbench2/overall", *(name for name in of_two if name.startswith("rewardbench2/mean_of")), *_domains()]
    return [name for name in first if name in there] + [name for name in ("rewardbench1/overall",) if name in there]


def _downstream(there: Collection[str]) -> list[str]:
    """The averages first; of best-of-n the largest n that every task has. Runs of best-of-n alone have an average for each reward."""
    named = _ordered(there, ("bon/",))
    own = [name for name in named if name.count("/") == 1] or [name for name in named if "/average@" in name]
    sizes = [int(size) for name in own if "/average@" in name and (size := name.partition("@")[2]).isdigit()]
    best = [name for name in own if sizes and name.endswith(f"@{max(sizes)}")]
    found = [*_ordered(there, ("downstream/",)), *best]
    return sorted(found, key=lambda name: "/average" not in name)


def _ordered(there: Collection[str], prefixes: Sequence[str]) -> list[str]:
    """The metrics with these names, or beginnings of names that end in a slash, in that order."""
    return [name for prefix in prefixes for name in sorted(there) if name == prefix or (prefix.endswith("/") and name.startswith(prefix))]
