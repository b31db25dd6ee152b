"""Log-probabilities of given completions, in fp32 and without an array of tokens x vocabulary.

Shapes: B batch, L padded length, T completion tokens, N tokens in a flat stream, H hidden, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers import PreTrainedModel

from core.models.fused.halves import halved, multiplies_by_halves, product, wide_product
from core.models.head import bias_of
from core.process.precision import without_autocast

CHUNK = 2**26
"""Logits in memory at once, tokens times vocabulary: 256 MB, the logits of 512 tokens for a vocabulary of 128k. Passes with fewer are
computed in one piece, and not again in the backward pass."""
UNIT = 64
"""Chunks are of a multiple of this many tokens, of which matrix products are efficient."""


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
    log_softmax_NV = _log_softmax(logits_NV, temperature)
    with nullcontext() if entropy_gradient else torch.no_grad():
        entropy_N = _entropy(log_softmax_NV)
    return _chosen(log_softmax_NV, tokens_N), entropy_N


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitRule:
    """What a model makes of its head's products: x * multiplier / divisor, and of that cap * tanh(x / cap)."""

    multiplier: float | None = None
    """Cohere's."""
    divisor: float | None = None
    """Granite's."""
    cap: float | None = None
    """Gemma 2's."""

    def logits(self, products_NV: Tensor) -> Tensor:
        """The logits, of the same shape; in the operations of transformers, since rounding tells whether the rule is the model's."""
        logits_NV = products_NV if self.multiplier is None else products_NV * self.multiplier
        logits_NV = logits_NV if self.divisor is None else logits_NV / self.divisor
        return logits_NV if self.cap is None else torch.tanh(logits_NV / self.cap) * self.cap


PLAIN = LogitRule()


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenQuery:
    """Asks a `LanguageHead` for the log-probabilities of tokens (N,) instead of logits, and for entropies: with `entropy`, or with a
    gradient if `entropy_gradient`."""

    tokens_N: Tensor
    temperature: float = 1.0
    rule: LogitRule = PLAIN
    entropy: bool = False
    entropy_gradient: bool = False


class LanguageHead(nn.Linear):
    """The head of a language model, which computes in fp32, even under autocast or on hidden states in another format.

    Near 20, neighbouring bf16 numbers are 1/8 apart, and so were logits: as much as a step of PPO moves them.

    On CUDA log-probabilities are computed by the matrix units from two parts of each factor where that is seen to be as good
    (`core.models.fused.halves`), and otherwise in IEEE fp32, torch's default. TF32 rounds both factors to 10 bits, which costs
    SmolLM2-135M up to 6e-3 nats.

    Everything happens in one call of the module, however many chunks it takes: an engine that shards gathers the weight for that call
    and its backward pass.
    """

    def forward(self, input: Tensor, query: TokenQuery | None = None) -> Tensor:
        """Logits before the model's own `LogitRule`; for a query and hidden states (N, H) log-probabilities and entropies, (2, N)."""
        with without_autocast(input.device):
            bias = bias_of(self)
            bias_V = None if bias is None else bias.float()
            if query is None and _sums_in_fp32(input, self.weight):
                products_NV = torch.mm(input.flatten(0, -2), self.weight.T, out_dtype=torch.float32).view(*input.shape[:-1], -1)
                return products_NV if bias_V is None else products_NV + bias_V
            hidden, weight_VH = input.float(), self.weight.float()
            if query is None:
                return linear(hidden, weight_VH, bias_V)
            by_halves = multiplies_by_halves(hidden, weight_VH)
            if len(hidden) <= _chunk_size(weight_VH) and not by_halves:
                return _answer(linear(hidden, weight_VH, bias_V), query, query.tokens_N)
            answer: Any = _Chunked.apply(hidden, weight_VH, bias_V, query, by_halves)
            return answer


def _sums_in_fp32(hidden: Tensor, weight_VH: Tensor) -> bool:
    """Whether the matrix units give fp32 products by themselves: of two factors in 16 bits, which fp32 multiplies exactly, and where no
    gradient is asked for. It saves converting the weight for every token of a rollout."""
    if not hidden.is_cuda or hidden.dtype != weight_VH.dtype or hidden.dtype not in (torch.bfloat16, torch.float16):
        return False
    return not (torch.is_grad_enabled() and (hidden.requires_grad or weight_VH.requires_grad))


def compute_head_in_fp32(model: PreTrainedModel) -> None:
    """Makes a `LanguageHead` of the model's head, in place, if it is a plain linear layer; weights and names stay the same."""
    head = model.get_output_embeddings()
    if type(head) is nn.Linear:
        head.__class__ = LanguageHead


def head_logprobs(
    model: PreTrainedModel,
    hidden_NH: Tensor,
    tokens_N: Tensor,
    *,
    rule: LogitRule = PLAIN,
    temperature: float = 1.0,
    entropy: bool = False,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens, given the last hidden states that predict them, and entropies, both (N,), in nats and fp32.

    The logits are computed a chunk of tokens at a time, and again in the backward pass. The entropies are zero unless `entropy`, and carry
    a gradient with `entropy_gradient`. The head must be a `LanguageHead` (`compute_head_in_fp32`).
    """
    head = model.get_output_embeddings()
    assert isinstance(head, LanguageHead)
    query = TokenQuery(
        tokens_N=tokens_N, temperature=temperature, rule=rule, entropy=entropy or entropy_gradient, entropy_gradient=entropy_gradient
    )
    logprobs_N, entropy_N = head(hidden_NH, query)
    return logprobs_N, entropy_N if entropy_gradient else entropy_N.detach()


class _Chunked(torch.autograd.Function):
    """Answers a query chunk by chunk; keeps nothing of the size of the vocabulary for the backward pass but the weight."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, query: TokenQuery, by_halves: bool) -> Tensor:
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, query.tokens_N)
        ctx.query, ctx.by_halves = query, by_halves
        products = _Halved(weight_VH) if by_halves else _Plain(weight_VH)
        chunks = _chunks(hidden_NH, weight_VH)
        return torch.cat([_answer(products.logits(hidden_NH[own], bias_V), query, query.tokens_N[own]) for own in chunks], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # for the decorator's sake
        (grad_2N,) = grad_outputs
        hidden_NH, weight_VH, bias_V, tokens_N = ctx.saved_tensors
        grad_hidden_NH = torch.empty_like(hidden_NH)
        grad_weight_VH = torch.zeros_like(weight_VH) if ctx.needs_input_grad[1] else None
        grad_bias_V = torch.zeros_like(bias_V) if ctx.needs_input_grad[2] else None
        with without_autocast(hidden_NH.device):
            products = _Halved(weight_VH) if ctx.by_halves else _Plain(weight_VH)
            for own in _chunks(hidden_NH, weight_VH):
                products_NV = products.logits(hidden_NH[own], bias_V).requires_grad_()
                with torch.enable_grad():
                    answer_2N = _answer(products_NV, ctx.query, tokens_N[own])
                (grad_NV,) = torch.autograd.grad(answer_2N, products_NV, grad_2N[:, own])
                grad_hidden_NH[own] = products.gradients(grad_NV, hidden_NH[own], grad_weight_VH)
                if grad_bias_V is not None:
                    grad_bias_V += grad_NV.sum(0)
        return grad_hidden_NH, grad_weight_VH, grad_bias_V, None, None


class _Plain:
    """A head's products in the format of its weight."""

    def __init__(self, weight_VH: Tensor) -> None:
        self._weight_VH = weight_VH

    def logits(self, hidden_NH: Tensor, bias_V: Tensor | None) -> Tensor:
        return linear(hidden_NH, self._weight_VH, bias_V)

    def gradients(self, grad_NV: Tensor, hidden_NH: Tensor, grad_weight_VH: Tensor | None) -> Tensor:
        """The gradient of the hidden states; that of the weight is added to."""
        if grad_weight_VH is not None:
            grad_weight_VH.addmm_(grad_NV.T, hidden_NH)
        return grad_NV @ self._weight_VH


class _Halved:
    """The same by two parts of each factor; those of the weight are kept from chunk to chunk."""

    def __init__(self, weight_VH: Tensor) -> None:
        self._weight_VH = halved(weight_VH)

    def logits(self, hidden_NH: Tensor, bias_V: Tensor | None) -> Tensor:
        products_NV = product(halved(hidden_NH), self._weight_VH.T)
        return products_NV if bias_V is None else products_NV + bias_V

    def gradients(self, grad_NV: Tensor, hidden_NH: Tensor, grad_weight_VH: Tensor | None) -> Tensor:
        grad = halved(grad_NV)
        if grad_weight_VH is not None:
            grad_weight_VH += wide_product(grad.T, halved(hidden_NH))
        return product(grad, self._weight_VH)


def _answer(products_NV: Tensor, query: TokenQuery, tokens_N: Tensor) -> Tensor:
    log_softmax_NV = _log_softmax(query.rule.logits(products_NV), query.temperature)
    logprobs_N = _chosen(log_softmax_NV, tokens_N)
    if not query.entropy:
        return torch.stack([logprobs_N, torch.zeros_like(logprobs_N)])
    with nullcontext() if query.entropy_gradient else torch.no_grad():
        entropy_N = _entropy(log_softmax_NV)
    return torch.stack([logprobs_N, entropy_N])


def _log_softmax(logits_NV: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(logits_NV.float() if temperature == 1 else logits_NV.float() / temperature, -1)


def _chosen(log_softmax_NV: Tensor, tokens_N: Tensor) -> Tensor:
    return log_softmax_NV.gather(-1, tokens_N[:, None]).squeeze(-1)


def _entropy(log_softmax_NV: Tensor) -> Tensor:
    return -torch.linalg.vecdot(log_softmax_NV.exp(), log_softmax_NV)


def _chunk_size(weight_VH: Tensor) -> int:
    """The number of tokens in a chunk."""
    return max(UNIT, CHUNK // len(weight_VH) // UNIT * UNIT)


def _chunks(hidden_NH: Tensor, weight_VH: Tensor) -> Iterator[slice]:
    size = _chunk_size(weight_VH)
    return (slice(start, start + size) for start in range(0, len(hidden_NH), size))


def logit_rule(model: PreTrainedModel) -> LogitRule | None:
    """How the model's logits follow from its `LanguageHead`'s products of the last hidden states; None if that is not known."""
    head = model.get_output_embeddings()
    return _rule(model, head) if isinstance(head, LanguageHead) else None


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the logits are simply the output embeddings applied to the last hidden states; some models cap or scale them."""
    head = model.get_output_embeddings()
    return head is not None and _rule(model, head) == PLAIN


@torch.no_grad()
def _rule(model: PreTrainedModel, head: nn.Module) -> LogitRule | None:
    ids_BL = torch.arange(4, device=model.device)[None]
    whole = model(input_ids=ids_BL, use_cache=False).logits
    products = head(model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state)
    settings = model.config.get_text_config().to_dict()
    own = LogitRule(
        multiplier=settings.get("logit_scale"), divisor=settings.get("logits_scaling"), cap=settings.get("final_logit_softcapping")
    )
    return next((rule for rule in (PLAIN, own) if torch.equal(whole, rule.logits(products))), None)


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
