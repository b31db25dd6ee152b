"""Small episodes written out by hand."""

import torch

from ppo.rollout import Episodes


def episodes_with(scores: list[float], finished: list[bool], *, logprob: float = 0.0, reference: float = 0.0) -> Episodes:
    """Episodes of two tokens, of which the second row has only the first."""
    mask_BT = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]])[: len(scores)]
    return Episodes(
        ids_BL=torch.zeros_like(mask_BT),
        mask_BL=mask_BT,
        mask_BT=mask_BT,
        logprobs_BT=torch.full(mask_BT.shape, logprob),
        reference_BT=torch.full(mask_BT.shape, reference),
        values_BT=torch.zeros(mask_BT.shape),
        scores_B=torch.tensor(scores),
        finished_B=torch.tensor(finished),
        seconds={},
    )
