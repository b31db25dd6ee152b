"""What rewards pay for beside correctness, as the page shows it."""

from core.shares import Z95
from evalhooks.report.facts import PpoRun, RewardModel

PREFIX, ERROR = "bias/", "bias_se/"


def biases_of(run: RewardModel | PpoRun) -> dict[str, tuple[float, float | None]]:
    """By feature the bias and its standard error, if it has one, at the newest checkpoint that measured any."""
    for checkpoint in reversed(run.checkpoints):
        found = {key.removeprefix(PREFIX): value for key, value in checkpoint.items() if key.startswith(PREFIX) and value is not None}
        if found:
            return {feature: (value, checkpoint.get(f"{ERROR}{feature}")) for feature, value in found.items()}
    return {}


def shown_biases(run: RewardModel | PpoRun) -> dict[str, tuple[float, float | None, bool]]:
    """The same for a figure, with whether the 95% interval leaves out 0; without a standard error nothing says so."""
    return {
        feature: (float(f"{value:.4g}"), None if error is None else float(f"{error:.4g}"), error is not None and abs(value) > Z95 * error)
        for feature, (value, error) in biases_of(run).items()
    }
