"""The Bradley-Terry loss.

Shapes: B pairs.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_loss(
    chosen_B: Tensor, rejected_B: Tensor, *, margin_B: Tensor | None = None, label_smoothing: float = 0.0, center: float = 0.0
) -> Tensor:
    """Mean negative log-likelihood of the preferences under Bradley-Terry (RewardBench 2 paper, section 2).

    With d = chosen - rejected - margin the loss of a pair is `-(1 - s) log sigmoid(d) - s log sigmoid(-d)`, where s is
    the share of labels assumed to be wrong (Mitchell 2023, "A note on DPO with noisy preferences"), plus
    `center * (chosen + rejected)^2`, which keeps rewards near zero (Eisenstein et al. 2023, eq. 2).
    Rewards are of shape (B,); the result is a scalar in nats.
    """
    chosen_B, rejected_B = chosen_B.float(), rejected_B.float()
    difference_B = chosen_B - rejected_B
    if margin_B is not None:
        difference_B = difference_B - margin_B
    loss_B = -(1 - label_smoothing) * logsigmoid(difference_B) - label_smoothing * logsigmoid(-difference_B)
    return (loss_B + center * (chosen_B + rejected_B) ** 2).mean()
