"""Draws tokens from logits by torch's operations (`core.generators.answers` has kernels for it).

Shapes: R rows, V vocabulary, C chunks of it, K tokens of a chunk.
"""

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 256
"""Tokens of the vocabulary that a GPU sums at a time to draw one of them."""
MOST_TOKENS = 4096 * CHUNK
"""Of a vocabulary whose chunks the kernels take."""


def sample_tokens(logits_RV: Tensor, temperature: float, uniforms_R: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row by inverting the cumulative distribution at `uniforms_R`, and its log-probability in nats.

    At temperature 0 it is the most likely token, with log-probability 0 since it is certain.
    """
    if temperature == 0:
        return logits_RV.argmax(-1), torch.zeros(len(logits_RV), device=logits_RV.device)
    # Over a large vocabulary every pass is expensive, so division by 1 is skipped.
    scaled_RV = logits_RV.float() if temperature == 1 else logits_RV.float() / temperature
    probabilities_RV = torch.softmax(scaled_RV, -1)
    if probabilities_RV.is_cuda:
        tokens_R = drawn_by_chunk(probabilities_RV, uniforms_R)
        return tokens_R, probabilities_RV.gather(-1, tokens_R[:, None]).squeeze(-1).log()
    cumulative_RV = probabilities_RV.cumsum(-1)
    # Scaled by the last entry, which rounding leaves slightly off 1: no token beyond the vocabulary must be drawn.
    targets_R1 = (uniforms_R * cumulative_RV[:, -1])[:, None]
    tokens_R = torch.searchsorted(cumulative_RV, targets_R1, right=True).squeeze(-1).clamp(max=logits_RV.shape[-1] - 1)
    return tokens_R, probabilities_RV.gather(-1, tokens_R[:, None]).squeeze(-1).log()


def drawn_by_chunk(probabilities_RV: Tensor, uniforms_R: Tensor) -> Tensor:
    """The same by inverting twice, once for a chunk of the vocabulary and once within it: a GPU sums a long row one after another."""
    num_rows, num_known = probabilities_RV.shape
    chunks_RCK = functional.pad(probabilities_RV, (0, -num_known % CHUNK)).view(num_rows, -1, CHUNK)
    sums_RC = chunks_RCK.sum(-1)
    ends_RC = sums_RC.cumsum(-1)
    targets_R1 = (uniforms_R * ends_RC[:, -1])[:, None]
    chunks_R1 = torch.searchsorted(ends_RC, targets_R1, right=True).clamp(max=ends_RC.shape[1] - 1)
    cumulative_RK = chunks_RCK.gather(1, chunks_R1[:, :, None].expand(-1, 1, CHUNK)).squeeze(1).cumsum(-1)
    # Below the last entry, which rounding may make smaller than the sum: a token of probability zero must not be drawn.
    left_R1 = targets_R1 - (ends_RC - sums_RC).gather(1, chunks_R1)
    left_R1 = torch.minimum(left_R1, cumulative_RK[:, -1:] * (1 - torch.finfo(torch.float32).eps))
    places_R1 = torch.searchsorted(cumulative_RK, left_R1, right=True).clamp(max=CHUNK - 1)
    return (chunks_R1 * CHUNK + places_R1).squeeze(-1).clamp(max=num_known - 1)
