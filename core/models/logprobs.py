"""Log-probabilities of given completions.

Shapes: B batch, L padded length, T completion tokens, N tokens in a flat stream, V vocabulary.
"""

from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.process.precision import without_autocast


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


@torch.no_grad()
def require_paddable(model: PreTrainedModel) -> None:
    """Raises `ValueError` for an architecture whose log-probabilities change with padding, as where a recurrent state takes it in."""
    size = model.config.get_text_config().vocab_size
    row = [id % size for id in range(3, 11)]
    ids_BL = torch.tensor([[0, 0, *row, 0], [row[0], *row, *row[:2]]], device=model.device)
    mask_BL = torch.tensor([[0, 0, *[1] * 8, 0], [1] * 11], device=model.device)
    with without_autocast(model.device):
        padded_NV = completion_logits(model, ids_BL, mask_BL, 5)[:4]
        alone_NV = completion_logits(model, ids_BL[:1, 2:-1], mask_BL[:1, 2:-1], 4)
    gaps_N = (torch.log_softmax(padded_NV.float(), -1) - torch.log_softmax(alone_NV.float(), -1)).abs().amax(-1)
    if gaps_N.median() > (0.01 if model.dtype == torch.float32 else 0.3):
        raise ValueError(
            f"{type(model).__name__} (model_type={model.config.model_type}) gives other log-probabilities with padding than without, so it "
            "cannot be trained here; give a policy of another architecture, such as a Llama."
        )


def to_padded(values_N: Tensor, cells_N: Tensor, shape: torch.Size) -> Tensor:
    """The values of a flat stream as (B, T), each in its cell of the array counted row by row, with zeros elsewhere."""
    return values_N.new_zeros(shape.numel()).index_put((cells_N,), values_N).view(shape)
