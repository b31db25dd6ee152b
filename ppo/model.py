"""Actor, critic and reference in one module, so that one engine wraps, shards and saves all of them.

Shapes: B episodes, T tokens of a completion, L tokens of prompt and completion, N tokens in a stream, H hidden size, V vocabulary.
"""

import copy
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.config import LoraConfig
from core.models.adapters import inject_adapter
from core.models.head import compute_in_fp32, head_of
from core.models.locate import ModelLocation
from core.models.logprobs import (
    LogitRule,
    completion_logits,
    compute_head_in_fp32,
    head_logprobs,
    logit_rule,
    position_ids,
    to_padded,
    token_logprobs,
)
from core.models.mapped import first_layers, sharing_copy
from core.transfer import to_device
from core.trees.attention import encode, obstacle, tree_attention
from core.trees.layout import Stream, pack_rows

UNIT = 64
"""Packed rows are padded to a multiple of this many tokens: the rounding of other matrix products depends on their height, so that a
row's log-probabilities would depend on what else is in its pass."""
MAX_LENGTH = 4096


class ForwardOutput(NamedTuple):
    """The output of all networks for the last T tokens, each of shape (B, T).

    A named tuple, since engines look inside for tensors. `entropy_BT` are zero unless requested, and `reference_BT` the reference's
    log-probabilities, if requested.
    """

    logprobs_BT: Tensor
    entropy_BT: Tensor
    values_BT: Tensor
    reference_BT: Tensor | None


class Networks(Protocol):
    """An `ActorCritic`, or an engine's wrapper of one."""

    def __call__(
        self,
        ids_BL: Tensor,
        mask_BL: Tensor,
        num_tokens: int,
        /,
        *,
        entropy: bool = True,
        entropy_gradient: bool = False,
        with_reference: bool = False,
    ) -> ForwardOutput:
        """See `ActorCritic.forward`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Packed:
    """Rows one after another, without padding; `places_N` are the positions that predict the completions' tokens, `tokens_N`."""

    stream: Stream
    places_N: Tensor
    tokens_N: Tensor
    cells_N: Tensor

    def hidden(self, model: nn.Module) -> Tensor:
        """The last layer's hidden states that predict the tokens, of shape (N, H)."""
        assert isinstance(model, PreTrainedModel)
        return encode(model, self.stream)[self.places_N]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Padded:
    """Rows padded at both ends to one width, whose last `num_tokens` columns are the completions."""

    ids_BL: Tensor
    mask_BL: Tensor
    num_tokens: int
    tokens_N: Tensor
    cells_N: Tensor

    def hidden(self, model: nn.Module) -> Tensor:
        """The last layer's hidden states that predict the tokens, of shape (N, H)."""
        assert isinstance(model, PreTrainedModel)
        positions_BL = position_ids(self.mask_BL)
        hidden_BLH = model.base_model(
            input_ids=self.ids_BL, attention_mask=self.mask_BL, position_ids=positions_BL, use_cache=False
        ).last_hidden_state
        return hidden_BLH[:, -self.num_tokens - 1 : -1].flatten(0, 1)[self.cells_N]

    def logits(self, model: PreTrainedModel) -> Tensor:
        """The logits that predict the tokens, of shape (N, V)."""
        return completion_logits(model, self.ids_BL, self.mask_BL, self.num_tokens)


class ActorCritic(nn.Module):
    """A causal language model, a critic with a body of its own and a scalar head, and the reference policy.

    The reference is a frozen copy of the actor. It is None if the actor is an adapter on frozen weights: these are the
    reference, with the adapter switched off.
    """

    def __init__(
        self,
        actor: PreTrainedModel,
        critic_body: nn.Module,
        critic_head: nn.Linear,
        *,
        reference: PreTrainedModel | None,
        temperature: float,
        max_length: int = MAX_LENGTH,
        mapped: bool = False,
    ) -> None:
        super().__init__()
        self.actor, self.critic_body, self.critic_head = actor, critic_body, critic_head
        self.reference = reference
        self.temperature = temperature
        self.value_scale = (1.0, 0.0)
        """Values are a * head + b, for a head that was trained in different units (see ppo.shaping.value_scale)."""
        compute_in_fp32(critic_head)
        for policy in filter(None, (actor, reference)):
            compute_head_in_fp32(policy)
        probe = first_layers(actor) if mapped else actor  # a mapped model is not to be run as a whole
        self.logit_rule = logit_rule(probe)
        """None if only the actor itself can tell its logits; they are then computed for all tokens of a pass at once."""
        assert isinstance(critic_body, PreTrainedModel)
        probes = (probe, first_layers(critic_body) if mapped else critic_body)
        self.padding_reason = _padding_reason(*probes, max_length, self.logit_rule)

    def forward(
        self,
        ids_BL: Tensor,
        mask_BL: Tensor,
        num_tokens: int,
        *,
        entropy: bool = True,
        entropy_gradient: bool = False,
        with_reference: bool = False,
    ) -> ForwardOutput:
        """Log-probabilities, entropies and values of the last `num_tokens` tokens, zeros for padding.

        The value at t is that of the state before token t, so it is read at the preceding token. Entropies are computed if `entropy`,
        and carry a gradient with `entropy_gradient`. Rows pass through the networks packed, without padding, unless there is a
        `padding_reason`. They are laid out on the host: rows that are there already save waiting for the device. Under autocast the
        layers compute in bf16, the heads in fp32.
        """
        read = _padded if self.padding_reason else _packed
        batch = read(ids_BL.cpu(), mask_BL.cpu(), num_tokens, self.actor.device)
        with self.attention():
            logprobs_N, entropy_N = self._logprobs(self.actor, batch, entropy=entropy, entropy_gradient=entropy_gradient)
            reference_N = self._reference(batch) if with_reference else None
            scale, shift = self.value_scale
            values_N = scale * self.critic_head(batch.hidden(self.critic_body)).squeeze(-1) + shift
        shape = torch.Size((len(ids_BL), num_tokens))
        return ForwardOutput(
            to_padded(logprobs_N, batch.cells_N, shape),
            to_padded(entropy_N, batch.cells_N, shape),
            to_padded(values_N, batch.cells_N, shape),
            None if reference_N is None else to_padded(reference_N, batch.cells_N, shape),
        )

    @contextmanager
    def attention(self) -> Generator[None]:
        """The context of forward and backward passes: under gradient checkpointing the backward pass runs the layers again."""
        with ExitStack() as stack:
            for model in (self.actor, self.critic_body, self.reference):
                if not self.padding_reason and model is not None:
                    assert isinstance(model, PreTrainedModel)
                    stack.enter_context(tree_attention(model))
            yield

    @torch.no_grad()
    def _reference(self, batch: "_Packed | _Padded") -> Tensor:
        if self.reference is not None:
            return self._logprobs(self.reference, batch)[0]
        with adapter_off(self.actor):
            return self._logprobs(self.actor, batch)[0]

    def _logprobs(
        self, model: PreTrainedModel, batch: "_Packed | _Padded", *, entropy: bool = False, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        rule, tokens_N = self.logit_rule, batch.tokens_N
        if rule is None:
            assert isinstance(batch, _Padded)
            return token_logprobs(batch.logits(model), tokens_N, temperature=self.temperature, entropy_gradient=entropy_gradient)
        return head_logprobs(
            model,
            batch.hidden(model),
            tokens_N,
            rule=rule,
            temperature=self.temperature,
            entropy=entropy,
            entropy_gradient=entropy_gradient,
        )


def actor_critic(
    actor: PreTrainedModel,
    reward_model: PreTrainedModel | None,
    *,
    temperature: float,
    max_length: int = MAX_LENGTH,
    lora: LoraConfig | None = None,
    base: ModelLocation | None = None,
    seed: int = 0,
    mapped: bool = False,
) -> ActorCritic:
    """The critic starts as a copy of the reward model if one is given, otherwise as the policy's body with a head of zeros.

    With `mapped` critic and reference lie in the same memory as the models that they start from, until an engine shards them.

    With `lora`, actor and critic body get adapters on their own weights, and the actor's weights stay the reference; the
    critic's head is trained in full. `base` is where the actor's weights can be found, for users of the adapter. `max_length`
    bounds the tokens of a row.
    """
    copied = sharing_copy if mapped else copy.deepcopy
    source = (actor if reward_model is None else reward_model).base_model
    assert isinstance(source, PreTrainedModel)
    body = copied(source)
    if reward_model is not None:
        head = copy.deepcopy(head_of(reward_model))
    else:
        head = nn.Linear(actor.config.get_text_config().hidden_size, 1, bias=False, device=actor.device)
        nn.init.zeros_(head.weight)
    common: dict[str, Any] = {"temperature": temperature, "max_length": max_length, "mapped": mapped}
    if not (lora and lora.rank):
        if not mapped:
            nn.Module.float(body)
        return ActorCritic(actor, body, head.float(), reference=frozen_copy(actor, sharing=mapped), **common)
    draw = torch.Generator().manual_seed(seed)
    for model in (actor, body):
        inject_adapter(model, lora, base=base or ModelLocation(path=str(actor.name_or_path)), draw=draw)
    return ActorCritic(actor, body, head.float(), reference=None, **common)


def frozen_copy(model: PreTrainedModel, *, sharing: bool = False) -> PreTrainedModel:
    """The reference policy: a copy that is never trained; if `sharing`, in the same memory."""
    reference = (sharing_copy(model) if sharing else copy.deepcopy(model)).eval()
    compute_head_in_fp32(reference)
    return reference.requires_grad_(False)


def _padded(ids_BL: Tensor, mask_BL: Tensor, num_tokens: int, device: torch.device) -> _Padded:
    cells_N = mask_BL[:, -num_tokens:].flatten().nonzero().squeeze(-1)
    tokens_N = ids_BL[:, -num_tokens:].flatten()[cells_N]
    return _Padded(
        ids_BL=to_device(ids_BL, device),
        mask_BL=to_device(mask_BL, device),
        num_tokens=num_tokens,
        tokens_N=to_device(tokens_N, device),
        cells_N=to_device(cells_N, device),
    )


def _packed(ids_BL: Tensor, mask_BL: Tensor, num_tokens: int, device: torch.device) -> _Packed:
    lengths_B, inside_BT = mask_BL.sum(-1), mask_BL[:, -num_tokens:].bool()
    ids_N = ids_BL[mask_BL.bool()]
    rows = [row.numpy() for row in ids_N.split(lengths_B.tolist())]
    filling = -len(ids_N) % UNIT
    stream = pack_rows([*rows, *([[0] * filling] if filling else [])])
    ends_B, counts_B = lengths_B.cumsum(0), inside_BT.sum(-1)
    first_B = ends_B - counts_B - 1
    places_N = (first_B[:, None] + torch.arange(num_tokens))[inside_BT]
    cells_N = inside_BT.flatten().nonzero().squeeze(-1)
    # Together: one copy instead of three.
    places_N, tokens_N, cells_N = to_device(torch.stack([places_N, ids_BL[:, -num_tokens:][inside_BT], cells_N]), device)
    return _Packed(stream=stream.to(device), places_N=places_N, tokens_N=tokens_N, cells_N=cells_N)


def _padding_reason(actor: PreTrainedModel, critic_body: PreTrainedModel, max_length: int, rule: LogitRule | None) -> str | None:
    """Why rows cannot be packed; None if they can."""
    if rule is None:
        return f"{type(actor).__name__} does more to its logits than is known here"
    return obstacle(actor, max_length) or obstacle(critic_body, max_length)


@contextmanager
def adapter_off(model: nn.Module) -> Generator[None]:
    """Inside it the model's output is that without its adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True  # pyright: ignore[reportPrivateUsage]  # `enable_adapters` would also freeze them, and the engine holds them as trainable
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False  # pyright: ignore[reportPrivateUsage]
