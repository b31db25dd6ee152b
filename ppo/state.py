"""What a policy run keeps on disk: checkpoints that any tool loads, and what resuming needs (see core.engines.resume)."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from core.disk import write_json
from ppo.shaping import Moments, ScoreStatistics

PROGRESS = "progress.json"


@dataclass(kw_only=True, slots=True)
class PPOState:
    """Where a run stands, and all that the next batch depends on besides weights, optimiser and seed.

    All random draws are functions of the seed and the step, so the step alone stands for the generators' state. `statistics`
    are those of the raw scores, `moments` those of standardised terms of the reward, `value_scale` are the critic's units,
    `kl_coef` is the coefficient of the next batch, `metrics` are those of the last rollout. `stopped_because` says why the run
    ended before its last batch, if it did.
    """

    step: int
    statistics: ScoreStatistics
    kl_coef: float
    metrics: dict[str, float]
    moments: dict[str, tuple[float, float]] = field(default_factory=dict)
    value_scale: tuple[float, float] = (1.0, 0.0)
    best_step: int = 0
    best_value: float | None = None
    stopped_because: str = ""

    def consider(self, step: int, value: float | None) -> bool:
        """Takes `step` as the best if its value is higher than any before; says whether it did."""
        if value is None or (self.best_value is not None and value <= self.best_value):
            return False
        self.best_step, self.best_value = step, value
        return True


def write_state(folder: Path, state: PPOState) -> None:
    """Writes the state beside the model of a checkpoint."""
    write_json(folder / PROGRESS, asdict(state))


def read_state(folder: Path) -> PPOState:
    """What `write_state` wrote."""
    state = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    statistics = ScoreStatistics(**{name: Moments(**moments) for name, moments in state["statistics"].items()})
    metrics = {name: float(value) for name, value in state["metrics"].items()}
    moments = {name: (mean, std) for name, (mean, std) in state["moments"].items()}
    scale, shift = state["value_scale"]
    return PPOState(**state | {"statistics": statistics, "metrics": metrics, "moments": moments, "value_scale": (scale, shift)})
