"""What reward-model training logs: sums over pairs, so that they add up over micro batches, steps and processes.

Shapes: B pairs, K sums.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

NUM_BINS = 10
"""Bins of the calibration error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSums:
    """Sums over pairs in fp64: scalars, except those by bin of confidence, of shape (NUM_BINS,).

    `num_tokens` counts all tokens of both sides; `num_unique_tokens` counts their common beginning once.
    """

    num_pairs: Tensor
    loss: Tensor
    num_correct: Tensor
    """A pair with equal rewards counts as half."""
    margin: Tensor
    chosen: Tensor
    chosen_squared: Tensor
    rejected: Tensor
    rejected_squared: Tensor
    num_tokens: Tensor
    num_unique_tokens: Tensor
    bin_confidence: Tensor
    bin_correct: Tensor

    @classmethod
    def zeros(cls) -> "PairSums":
        """The sums over no pairs."""
        return cls.unstacked(torch.zeros(NUM_SUMS, dtype=torch.float64))

    def stacked(self) -> Tensor:
        """All sums in one tensor of shape (K,), in the order of the fields."""
        return torch.cat([getattr(self, field.name).reshape(-1) for field in fields(self)])

    @classmethod
    def unstacked(cls, sums_K: Tensor) -> "PairSums":
        """The inverse of `stacked`."""
        parts = sums_K.split(list(_SIZES.values()))
        return cls(**{name: part if part.numel() > 1 else part.squeeze(0) for name, part in zip(_SIZES, parts, strict=True)})

    def __add__(self, other: "PairSums") -> "PairSums":
        return PairSums.unstacked(self.stacked() + other.stacked())

    def metrics(self) -> dict[str, float]:
        """Means over the pairs; the rewards' standard deviations by side; the expected calibration error.

        The model's probability p of the given label is sigmoid(chosen - rejected), its confidence max(p, 1 - p). The error
        is the mean distance between confidence and accuracy over ten bins of equal width from 0.5 to 1, weighted by their
        pairs (Guo et al. 2017, eq. 3).
        """
        pairs = max(1.0, self.num_pairs.item())
        error = sum((self.bin_confidence - self.bin_correct).abs().tolist())
        return {
            "loss": self.loss.item() / pairs,
            "accuracy": self.num_correct.item() / pairs,
            "margin": self.margin.item() / pairs,
            "chosen_reward": self.chosen.item() / pairs,
            "rejected_reward": self.rejected.item() / pairs,
            "chosen_reward_std": _std(self.chosen.item(), self.chosen_squared.item(), pairs),
            "rejected_reward_std": _std(self.rejected.item(), self.rejected_squared.item(), pairs),
            "calibration_error": error / pairs,
        }


_SIZES = {field.name: NUM_BINS if field.name.startswith("bin_") else 1 for field in fields(PairSums)}
NUM_SUMS = sum(_SIZES.values())


@torch.no_grad()
def pair_sums(loss: Tensor, chosen_B: Tensor, rejected_B: Tensor, *, num_tokens: int = 0, num_unique_tokens: int = 0) -> PairSums:
    """The sums of one micro batch, on the device of its rewards; `loss` is the sum over its pairs."""
    chosen_B, rejected_B = chosen_B.double(), rejected_B.double()
    difference_B = chosen_B - rejected_B
    correct_B = (difference_B > 0).double() + 0.5 * (difference_B == 0).double()
    probability_B = difference_B.sigmoid()
    confidence_B = torch.maximum(probability_B, 1 - probability_B)
    bin_B = ((confidence_B.nan_to_num(0.5) - 0.5) * 2 * NUM_BINS).long().clamp(max=NUM_BINS - 1)

    def by_bin(values_B: Tensor) -> Tensor:
        return values_B.new_zeros(NUM_BINS).index_add_(0, bin_B, values_B)

    def count(number: int) -> Tensor:
        return chosen_B.new_full((), number)  # filled on the device: a copy from the host would wait for it

    return PairSums(
        num_pairs=count(len(chosen_B)),
        loss=loss.double(),
        num_correct=correct_B.sum(),
        margin=difference_B.sum(),
        chosen=chosen_B.sum(),
        chosen_squared=(chosen_B**2).sum(),
        rejected=rejected_B.sum(),
        rejected_squared=(rejected_B**2).sum(),
        num_tokens=count(num_tokens),
        num_unique_tokens=count(num_unique_tokens),
        bin_confidence=by_bin(confidence_B),
        bin_correct=by_bin(correct_B),
    )


def _std(total: float, squared: float, count: float) -> float:
    """The standard deviation from sums; never below zero by rounding."""
    return max(0.0, squared / count - (total / count) ** 2) ** 0.5
