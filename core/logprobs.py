"""Log-probabilities of given completions."""

from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel


def position_ids(mask_BL: Tensor) -> Tensor:
    """Positions counted over the attended tokens, so that padding at the start moves nothing."""
    return (mask_BL.cumsum(-1) - 1).clamp(min=0)


def completion_logprobs(
    model: PreTrainedModel,
    ids_BL: Tensor,
    mask_BL: Tensor,
    num_tokens: int,
    *,
    temperature: float = 1.0,
    entropy_gradient: bool = False,
    plain_head: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each of the last `num_tokens` tokens and the entropy of its distribution, both (B, T), in nats.

    Logits are made for these tokens alone, never for the prompt, and divided by `temperature` as in sampling; where the model has
    a `plain_head` (see `has_plain_head`), not for padding either, which then has zeros. The entropy has a gradient where it is
    asked for: it keeps a tensor of the size of the logits.
    """
    inside_BT = mask_BL[:, -num_tokens:].bool()
    options = {"input_ids": ids_BL, "attention_mask": mask_BL, "position_ids": position_ids(mask_BL), "use_cache": False}
    head = model.get_output_embeddings() if plain_head else None
    if head is not None:
        # Token t is foretold where the token before it stands.
        hidden_BTH = model.base_model(**options).last_hidden_state[:, -num_tokens - 1 : -1]
        logits_NV = head(hidden_BTH[inside_BT])
    else:
        logits_NV = model(**options, logits_to_keep=num_tokens + 1).logits[:, :-1][inside_BT]
    log_softmax_NV = torch.log_softmax(logits_NV.float() / temperature if temperature != 1 else logits_NV.float(), -1)
    logprobs_N = log_softmax_NV.gather(-1, ids_BL[:, -num_tokens:][inside_BT][:, None]).squeeze(-1)
    with nullcontext() if entropy_gradient else torch.no_grad():
        entropy_N = -torch.linalg.vecdot(log_softmax_NV.exp(), log_softmax_NV)
    return _placed(logprobs_N, inside_BT), _placed(entropy_N, inside_BT)


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the logits are the output embeddings' product with the last hidden states, and no more: some models cap or scale them."""
    head = model.get_output_embeddings()
    if head is None:
        return False
    ids_BL = torch.arange(4, device=model.device)[None]
    whole = model(input_ids=ids_BL, use_cache=False).logits
    return torch.equal(whole, head(model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state))


def _placed(values_N: Tensor, inside_BT: Tensor) -> Tensor:
    """The values where they belong, zeros elsewhere."""
    return values_N.new_zeros(inside_BT.shape).masked_scatter(inside_BT, values_N)
