"""Log-probabilities of given completions."""

from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel


def position_ids(mask_BL: Tensor) -> Tensor:
    """Positions counted over the attended tokens, so that padding at the start moves nothing."""
    return (mask_BL.cumsum(-1) - 1).clamp(min=0)


def completion_logprobs(
    model: PreTrainedModel, ids_BL: Tensor, mask_BL: Tensor, num_tokens: int, *, temperature: float = 1.0, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability of each of the last `num_tokens` tokens and the entropy of its distribution, both (B, T), in nats.

    Logits are made for these tokens alone, never for the prompt, and divided by `temperature` as in sampling.
    The entropy has a gradient where it is asked for: it keeps a tensor of the size of the logits.
    """
    logits_BTV = model(
        input_ids=ids_BL, attention_mask=mask_BL, position_ids=position_ids(mask_BL), use_cache=False, logits_to_keep=num_tokens + 1
    ).logits[:, :-1]
    log_softmax_BTV = torch.log_softmax(logits_BTV.float() / temperature, -1)
    logprobs_BT = log_softmax_BTV.gather(-1, ids_BL[:, -num_tokens:, None]).squeeze(-1)
    with nullcontext() if entropy_gradient else torch.no_grad():
        entropy_BT = -(log_softmax_BTV.exp() * log_softmax_BTV).sum(-1)
    return logprobs_BT, entropy_BT
