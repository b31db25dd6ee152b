"""What a report tells of a run beside its scores: standard errors, held-out accuracy, the course of the loss, settings and cost."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.runs.samples import read_samples
from core.runs.tracking import METRICS, read_metrics
from core.runs.warnings import texts_of
from core.shares import standard_error

MAX_POINTS = 200
"""Points of a curve; more would make the page heavy and could not be told apart."""

SAMPLES, MAX_TEXT = 3, 1000
"""Samples of each kind, and characters of each completion, that a summary holds; the run's folder has all."""

_CURVES = {"rm": ("train/loss", "train/accuracy"), "ppo": ("train/policy_loss", "train/value_loss", "train/score", "train/kl")}
_NO_SETTINGS = {"inputs", "asked"}


def details(record: Mapping[str, Any]) -> dict[str, Any]:
    """The details of a run from its record (with its folder as `dir`) and its log."""
    final = {name: float(value) for name, value in record.get("final", {}).items()}
    mark = "rewardbench2_se/"
    return {
        "errors": {name.removeprefix(mark): value for name, value in final.items() if name.startswith(mark)},
        "held_out": _held_out(record, final),
        "curves": _curves(record),
        "settings": dict(_settings(record.get("identity", {}))),
        "cost": {key: record[key] for key in ("wall_s", "train_s", "hooks_s", "num_pairs") if record.get(key) is not None},
        "samples": _samples(record),
        # Those about the lineage of a reward model stand beside its PPO run.
        "warnings": [text for text in texts_of(record) if text not in record.get("lineage", {}).get("warnings", [])],
    }


def _held_out(record: Mapping[str, Any], final: Mapping[str, float]) -> dict[str, float | None]:
    """Accuracy on held-out pairs, its standard error as a share of so many pairs, and their number, without those that were too long."""
    accuracy, count = final.get("held_out/accuracy"), final.get("held_out/num_pairs") or record.get("data", {}).get("held_out")
    if accuracy is None or not math.isfinite(accuracy):
        return {}
    pairs = round(count) if count else None
    return {"accuracy": accuracy, "error": standard_error(accuracy, pairs) if pairs else None, "pairs": pairs}


def _samples(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A few samples of each kind at the best checkpoint, the last one if that has none, with texts cut for a page."""
    folder = Path(record["dir"])
    places = (record.get("best_step"), record.get("step", record.get("last_step")))
    found = next((rows for step in places if step is not None and (rows := read_samples(folder, step))), [])
    kinds = dict.fromkeys(str(row.get("kind")) for row in found)
    chosen = [row for kind in kinds for row in [row for row in found if row.get("kind") == kind][:SAMPLES]]
    for row in chosen:
        for completion in row.get("completions", []):
            completion["text"] = str(completion.get("text", ""))[:MAX_TEXT]
    return chosen


def _curves(record: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    rows = read_metrics(Path(record["dir"]) / METRICS, axis="train/step", say=lambda line: None)  # whoever opens the run says it
    found: dict[str, list[tuple[int, float]]] = {}
    for name in _CURVES.get(record["job"], ()):
        points = [(step, values[name]) for step, values in rows.items() if math.isfinite(values.get(name, math.nan))]
        if points:
            stride = math.ceil(len(points) / MAX_POINTS)
            kept = points[::stride]
            found[name.removeprefix("train/")] = kept if kept[-1] == points[-1] else [*kept, points[-1]]
    return found


def _settings(identity: Mapping[str, Any], key: str = "") -> Iterator[tuple[str, Any]]:
    """The settings by dotted key, as text or number."""
    for name, value in identity.items():
        own = f"{key}.{name}" if key else name
        if own in _NO_SETTINGS:
            continue
        if isinstance(value, Mapping):
            yield from _settings(value, own)
        else:
            yield own, value if isinstance(value, int | float | str) else str(value)
