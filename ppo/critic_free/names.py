"""What TRL's trainers log, under the names that PPO logs it under."""

from collections.abc import Mapping, Sequence

from ppo.metrics import Metric

NAMES = {
    "entropy": Metric.ENTROPY,
    "clip_ratio/region_mean": Metric.CLIP_FRACTION,
    "grad_norm": Metric.GRAD_NORM,
    "learning_rate": Metric.LR,
}
"""Our names for what TRL logs."""
LAST_VALUE = ("learning_rate", "num_tokens")
"""Logged as their last value in a batch; everything else as the mean over its updates."""
MEASURED_HERE = (
    "kl",
    "epoch",
    "reward",
    "reward_std",
    "rewards/reward/mean",
    "rewards/reward/std",
    "completions/mean_length",
    "completions/clipped_ratio",
)
"""Left out of what TRL logs: we measure them ourselves, from the scores or per completion."""


def renamed(logs: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """The means of what TRL logged at the updates of a batch, under our names if there is one, otherwise as `trl/NAME`."""
    names = dict.fromkeys(name for row in logs for name in row if name not in MEASURED_HERE)
    metrics: dict[str, float] = {}
    for name in names:
        # TRL logs None for what it has not measured.
        values = [float(value) for row in logs if isinstance(value := row.get(name), int | float)]
        if values:
            metrics[NAMES.get(name, f"trl/{name}")] = values[-1] if name in LAST_VALUE else sum(values) / len(values)
    return metrics
