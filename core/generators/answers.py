"""The answers of all rows while they grow by a token at a time, and where each row is; every tensor stays in its place.

On CUDA devices the next token is drawn and written down by two kernels of our own where they work, which read the logits once: by
torch's operations it takes thirty, and a GPU takes longer to start most of them than to run them.

Shapes: R rows, T tokens that an answer may have, V vocabulary, E tokens that end an answer.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from core.generators.drawing import CHUNK, MOST_TOKENS, sample_tokens
from core.trees.trial import passes

_TOLERANCE = 1e-4


@dataclass(kw_only=True, slots=True)
class Answers:
    """What has been drawn, and what the next token's step needs to know."""

    next_R: Tensor
    """The token drawn last."""
    positions_R: Tensor
    """Where that token goes in its row, its prompt included."""
    steps_R: Tensor
    """Tokens drawn, the same in all rows."""
    active_R: Tensor
    """Whether the answer has not ended."""
    lengths_R: Tensor
    """Tokens of the answer, its end included."""
    uniforms_RT: Tensor
    """Random numbers in [0, 1), by which tokens are drawn."""
    tokens_RT: Tensor
    logprobs_RT: Tensor

    @classmethod
    def empty(cls, num_rows: int, num_tokens: int, device: torch.device) -> "Answers":
        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            next_R=zeros(num_rows),
            positions_R=zeros(num_rows),
            steps_R=zeros(num_rows),
            active_R=zeros(num_rows, dtype=torch.bool),
            lengths_R=zeros(num_rows),
            uniforms_RT=zeros(num_rows, num_tokens, dtype=torch.float32),
            tokens_RT=zeros(num_rows, num_tokens),
            logprobs_RT=zeros(num_rows, num_tokens, dtype=torch.float32),
        )

    def begin(self, prompt_lengths_R: Tensor, uniforms_RT: Tensor) -> None:
        """Sets all rows to the beginning of their answers."""
        self.positions_R.copy_(prompt_lengths_R - 1)
        self.uniforms_RT.copy_(uniforms_RT)
        self.active_R.fill_(True)
        for tensor in (self.steps_R, self.lengths_R):
            tensor.zero_()

    def draw(self, logits_RV: Tensor, temperature: float, ends_E: Tensor) -> None:
        """Draws the next token of every row; rows that have ended go on, unheard."""
        if temperature != 0 and _fits_kernels(logits_RV):
            self.draw_by_kernels(logits_RV, temperature, ends_E)
        else:
            self.draw_by_operations(logits_RV, temperature, ends_E)

    def draw_by_kernels(self, logits_RV: Tensor, temperature: float, ends_E: Tensor) -> None:
        """`draw` by kernels of our own; the logits in fp32, the temperature above 0."""
        from core.generators.kernels import draw_next

        per_row = (self.next_R, self.positions_R, self.steps_R, self.active_R.view(torch.uint8), self.lengths_R)
        draw_next(logits_RV, temperature, ends_E, *per_row, self.uniforms_RT, self.tokens_RT, self.logprobs_RT, chunk=CHUNK)

    def draw_by_operations(self, logits_RV: Tensor, temperature: float, ends_E: Tensor) -> None:
        """`draw` by torch's operations."""
        steps_R1 = self.steps_R[:, None]
        tokens_R, logprobs_R = sample_tokens(logits_RV, temperature, self.uniforms_RT.gather(1, steps_R1).squeeze(1))
        self.tokens_RT.scatter_(1, steps_R1, tokens_R[:, None])
        self.logprobs_RT.scatter_(1, steps_R1, logprobs_R[:, None])
        self.lengths_R += self.active_R
        self.active_R &= (tokens_R[:, None] != ends_E).all(-1)
        self.next_R.copy_(tokens_R)
        self.positions_R += 1
        self.steps_R += 1


def _fits_kernels(logits_RV: Tensor) -> bool:
    """Whether the kernels take these logits: on a GPU, in fp32, and they were seen to draw what is to be drawn there."""
    if not logits_RV.is_cuda or logits_RV.dtype != torch.float32 or logits_RV.stride(-1) != 1 or logits_RV.shape[-1] > MOST_TOKENS:
        return False
    return _works(logits_RV.device)


@cache
def _works(device: torch.device) -> bool:
    """Tries the kernels once; a failure is told, and torch's own operations draw from then on."""
    otherwise = "tokens are drawn by several passes over the logits, slower: its kernels fail"
    return passes(lambda: _error(device), tolerance=_TOLERANCE, otherwise=otherwise)


def _error(device: torch.device) -> float:
    """The largest error of log-probabilities against one softmax, at one temperature and another; infinite if other tokens are drawn or
    the rows are elsewhere than they should be."""
    draw = torch.Generator().manual_seed(0)
    logits_RV = 3 * torch.randn(64, 1000, generator=draw)
    logits_RV[:, ::7] = float("-inf")
    logits_RV[:9, :CHUNK] = logits_RV[9:20, 2 * CHUNK :] = float("-inf")
    uniforms_RT = torch.rand(64, 3, generator=draw)
    uniforms_RT[:2, 0] = torch.tensor([0.0, 1 - 2**-24])
    ends_E = logits_RV[:40].argmax(-1).unique()  # often drawn, so that some rows end and some do not
    errors: list[Tensor] = []
    for temperature in (1.0, 0.7):
        ours, expected = (Answers.empty(64, 3, place) for place in (device, torch.device("cpu")))
        for answers in (ours, expected):
            answers.begin(torch.arange(1, 65, device=answers.next_R.device), uniforms_RT.to(answers.next_R.device))
        for _ in range(3):
            expected.draw_by_operations(logits_RV, temperature, ends_E)
            ours.draw_by_kernels(logits_RV.to(device), temperature, ends_E.to(device))
        errors.append(_difference(ours, expected, torch.log_softmax(logits_RV.double() / temperature, -1)))
    return torch.stack(errors).nan_to_num(nan=float("inf"), posinf=float("inf")).max().item()


def _difference(ours: Answers, expected: Answers, log_softmax_RV: Tensor) -> Tensor:
    """The largest error of log-probabilities. Where a boundary is rounded a neighbour may be drawn, in two rows of 64; an impossible token
    never."""
    tokens_RT = ours.tokens_RT.cpu()
    truth_RT = log_softmax_RV.gather(1, tokens_RT.clamp(0, log_softmax_RV.shape[1] - 1))
    same_R = (tokens_RT == expected.tokens_RT).all(-1)
    alike = all(
        getattr(ours, name).cpu()[same_R].equal(getattr(expected, name)[same_R])
        for name in ("next_R", "positions_R", "steps_R", "active_R", "lengths_R")
    )
    if (~same_R).sum() > 2 or not alike or not truth_RT.isfinite().all():
        return torch.tensor(float("inf"))
    return (ours.logprobs_RT.cpu() - truth_RT).abs().max()
