"""Log-probabilities of given completions.

Shapes: B batch, L padded length, T completion tokens, N tokens in a flat stream, V vocabulary.
"""

from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel


def position_ids(mask_BL: Tensor) -> Tensor:
    """Positions counted over the attended tokens, so that padding on the left changes nothing."""
    return (mask_BL.cumsum(-1) - 1).clamp(min=0)


def completion_logits(model: PreTrainedModel, ids_BL: Tensor, mask_BL: Tensor, num_tokens: int) -> Tensor:
    """The logits that predict the last `num_tokens` tokens of each row, without those of padding; shape (N, V).

    None are computed for the prompt. Rows may be padded at both ends.
    """
    logits_BTV = model(
        input_ids=ids_BL, attention_mask=mask_BL, position_ids=position_ids(mask_BL), use_cache=False, logits_to_keep=num_tokens + 1
    ).logits[:, :-1]
    return logits_BTV[mask_BL[:, -num_tokens:].bool()]


def token_logprobs(
    logits_NV: Tensor, tokens_N: Tensor, *, temperature: float = 1.0, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability of each token under its logits divided by `temperature`, and their entropy, both (N,), in nats and fp32."""
    log_softmax_NV = torch.log_softmax(logits_NV.float() if temperature == 1 else logits_NV.float() / temperature, -1)
    logprobs_N = log_softmax_NV.gather(-1, tokens_N[:, None]).squeeze(-1)
    with nullcontext() if entropy_gradient else torch.no_grad():
        entropy_N = -torch.linalg.vecdot(log_softmax_NV.exp(), log_softmax_NV)
    return logprobs_N, entropy_N


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the logits are simply the output embeddings applied to the last hidden states; some models cap or scale them."""
    head = model.get_output_embeddings()
    if head is None:
        return False
    ids_BL = torch.arange(4, device=model.device)[None]
    whole = model(input_ids=ids_BL, use_cache=False).logits
    return torch.equal(whole, head(model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state))


def to_padded(values_N: Tensor, inside_BT: Tensor) -> Tensor:
    """The values of a flat stream as (B, T), row by row where `inside_BT` is set, with zeros elsewhere."""
    return values_N.new_zeros(inside_BT.shape).masked_scatter(inside_BT, values_N)
