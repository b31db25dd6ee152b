"""What training logs: sums over pairs, so that they add up over micro batches, steps and processes."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

NUM_BINS = 10
_NAMES = ("pairs", "loss", "correct", "margin", "chosen", "chosen2", "rejected", "rejected2", "tokens", "unique", "stop", "overdue")


@dataclass(kw_only=True, slots=True)
class Tally:
    """Sums since the log's last row. `bins` holds count, confidence and correctness of each bin of the calibration error."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_NAMES, 0.0))
    bins: list[float] = field(default_factory=lambda: [0.0] * (3 * NUM_BINS))

    def flat(self) -> list[float]:
        """All sums as one list, to be added over processes."""
        return [*self.sums.values(), *self.bins]

    def add(self, flat: list[float]) -> None:
        """Adds another's sums."""
        for name, value in zip(_NAMES, flat, strict=False):
            self.sums[name] += value
        self.bins = [mine + its for mine, its in zip(self.bins, flat[len(_NAMES) :], strict=True)]

    def metrics(self) -> dict[str, float]:
        """Means over the pairs; rewards' standard deviations per side; the expected calibration error.

        The model's probability of the given label is sigmoid(chosen - rejected), its confidence that or one minus that, the
        higher; the error is the mean distance of confidence and accuracy over ten bins of equal width from 0.5 to 1,
        weighted by their pairs (Guo et al. 2017, eq. 3).
        """
        s = self.sums
        pairs = max(1.0, s["pairs"])
        error = sum(abs(conf - right) for conf, right in zip(self.bins[NUM_BINS : 2 * NUM_BINS], self.bins[2 * NUM_BINS :], strict=True))
        return {
            "loss": s["loss"] / pairs,
            "accuracy": s["correct"] / pairs,
            "margin": s["margin"] / pairs,
            "chosen_reward": s["chosen"] / pairs,
            "rejected_reward": s["rejected"] / pairs,
            "chosen_reward_std": _std(s["chosen"], s["chosen2"], pairs),
            "rejected_reward_std": _std(s["rejected"], s["rejected2"], pairs),
            "calibration_error": error / pairs,
        }


@torch.no_grad()
def pair_sums(loss: Tensor, chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """The sums of one micro batch as a tensor on its device, laid out as `Tally.flat` without the counts of tokens.

    `loss` is the sum over its pairs. A pair with equal rewards counts as half right.
    """
    chosen_B, rejected_B = chosen_B.double(), rejected_B.double()
    difference_B = chosen_B - rejected_B
    correct_B = (difference_B > 0).double() + 0.5 * (difference_B == 0).double()
    probability_B = difference_B.sigmoid()
    confidence_B = torch.maximum(probability_B, 1 - probability_B)
    bin_B = ((confidence_B.nan_to_num(0.5) - 0.5) * 2 * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    bins = torch.zeros(3, NUM_BINS, dtype=torch.float64, device=loss.device)
    for row, values_B in enumerate((torch.ones_like(confidence_B), confidence_B, correct_B)):
        bins[row].index_add_(0, bin_B, values_B)
    zero = torch.zeros((), dtype=torch.float64, device=loss.device)
    sums = [
        zero + len(chosen_B),
        loss.double(),
        correct_B.sum(),
        difference_B.sum(),
        chosen_B.sum(),
        (chosen_B**2).sum(),
        rejected_B.sum(),
        (rejected_B**2).sum(),
        *[zero] * 4,
    ]
    return torch.cat([torch.stack(sums), bins.flatten()])


def _std(total: float, squares: float, count: float) -> float:
    """Standard deviation from sums, in fp64; never below zero by rounding."""
    return max(0.0, squares / count - (total / count) ** 2) ** 0.5
