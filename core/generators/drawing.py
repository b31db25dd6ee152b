"""Draws tokens from logits; on CUDA devices by kernels of our own where they work, which read the logits once.

Shapes: R rows, V vocabulary, C chunks of it, K tokens of a chunk.
"""

import logging
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from core.trees.trial import fault_of

CHUNK = 256
"""Tokens of the vocabulary that a GPU sums at a time to draw one of them."""
MOST_TOKENS = 4096 * CHUNK
"""Of a vocabulary whose chunks the kernels take."""
_TOLERANCE = 1e-4


def sample_tokens(logits_RV: Tensor, temperature: float, uniforms_R: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row by inverting the cumulative distribution at `uniforms_R`, and its log-probability in nats.

    At temperature 0 it is the most likely token, with log-probability 0 since it is certain.
    """
    if temperature == 0:
        return logits_RV.argmax(-1), torch.zeros(len(logits_RV), device=logits_RV.device)
    if _fits_kernels(logits_RV):
        from core.generators.kernels import draw_tokens

        return draw_tokens(logits_RV, temperature, uniforms_R, CHUNK)
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


def _fits_kernels(logits_RV: Tensor) -> bool:
    """Whether the kernels take these logits: on a GPU, in fp32, and they were seen to draw what is to be drawn there."""
    if not logits_RV.is_cuda or logits_RV.dtype != torch.float32 or logits_RV.stride(-1) != 1 or logits_RV.shape[-1] > MOST_TOKENS:
        return False
    return _works(logits_RV.device)


@cache
def _works(device: torch.device) -> bool:
    """Tries the kernels once; a failure is told, and torch's own operations draw from then on."""
    fault = fault_of(lambda: _error(device), tolerance=_TOLERANCE)
    if fault is not None:
        logging.getLogger(__name__).warning("tokens are drawn by several passes over the logits, slower: its kernels fail (%s)", fault)
    return fault is None


def _error(device: torch.device) -> float:
    """The largest error of log-probabilities against one softmax, at one temperature and another; infinite if other tokens are drawn."""
    from core.generators.kernels import draw_tokens

    draw = torch.Generator().manual_seed(0)
    logits_RV = 3 * torch.randn(64, 1000, generator=draw)
    logits_RV[:, ::7] = float("-inf")
    logits_RV[:9, :CHUNK] = logits_RV[9:20, 2 * CHUNK :] = float("-inf")
    uniforms_R = torch.rand(64, generator=draw)
    uniforms_R[:2] = torch.tensor([0.0, 1 - 2**-24])
    errors: list[Tensor] = []
    for temperature in (1.0, 0.7):
        probabilities_RV = torch.softmax(logits_RV / temperature, -1)
        expected_R = drawn_by_chunk(probabilities_RV, uniforms_R)
        tokens_R, logprobs_R = (drawn.cpu() for drawn in draw_tokens(logits_RV.to(device), temperature, uniforms_R.to(device), CHUNK))
        # Where a boundary is rounded a neighbour may be drawn, of one row in 64 at most; an impossible token never.
        truth_R = probabilities_RV.double().gather(-1, tokens_R.clamp(0, 999)[:, None]).squeeze(-1).log()
        if (tokens_R != expected_R).sum() > 1 or not truth_R.isfinite().all():
            return float("inf")
        errors.append((logprobs_R - truth_R).abs().max())
    return torch.stack(errors).nan_to_num(nan=float("inf")).max().item()
