"""Hooks, trackers and scorers with which the runs of every algorithm are ended before their time, or measured."""

import os
import signal
from collections.abc import Mapping, Sequence

from core.hooks.hook import Hook
from core.records import CheckpointSaved, Dialogue
from tests.fakes import LengthScorer, ListTracker


class ValuesByStep(Hook):
    """Gives each checkpoint the downstream average prepared for its step."""

    def __init__(self, values: Mapping[int, float]) -> None:
        self.values = values

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        return {"downstream/average": self.values[event.step]}


class WeightHook(Hook):
    """Measures the policy itself; raises at the checkpoint of `dies_at`, and sends a signal at that of `stops_at`."""

    def __init__(self, *, dies_at: int | None = None, stops_at: int | None = None) -> None:
        self.dies_at, self.stops_at = dies_at, stops_at

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        if event.step == self.dies_at:
            raise RuntimeError("the machine went away")
        if event.step == self.stops_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"downstream/average": sum(parameter.double().square().sum().item() for parameter in event.model.parameters())}


class DyingTracker(ListTracker):
    """Raises, or sends a signal, when it is given the training metrics of a step."""

    def __init__(self, step: int, *, by_signal: bool = False) -> None:
        super().__init__()
        self.step, self.by_signal = step, by_signal

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        super().log(metrics, axis=axis, step=step)
        if (axis, step) == ("train/step", self.step):
            if not self.by_signal:
                raise RuntimeError("the machine went away")
            os.kill(os.getpid(), signal.SIGTERM)


class BrokenScorer(LengthScorer):
    """Gives NaN once it has been asked `good` times."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good = good

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        scores = super().score(prompts, completions)
        return scores if len(self.calls) <= self.good else [[float("nan")] * len(row) for row in scores]


class RisingScorer(LengthScorer):
    """Scores all completions of a call by how often it has been asked."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[float(len(self.calls))] * len(row) for row in super().score(prompts, completions)]


def without_seconds(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics but for those that say how long something took."""
    return {name: value for name, value in metrics.items() if "seconds/" not in name and not name.endswith("step_time")}
