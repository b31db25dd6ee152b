"""Actor, critic and reference in one module, so that one engine wraps, shards and saves all of them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.adapters import inject
from core.config import LoraConfig
from core.logprobs import completion_logprobs, has_plain_head, position_ids
from core.sources import Source


class Passed(NamedTuple):
    """What a pass through all networks gives for the last T tokens, each of shape (B, T).

    A named tuple, which the engines look into. `reference_BT` are the reference's log-probabilities, where asked for.
    """

    logprobs_BT: Tensor
    entropy_BT: Tensor
    values_BT: Tensor
    reference_BT: Tensor | None


class ActorCritic(nn.Module):
    """A causal language model, a critic with a body of its own and a scalar head, and the reference policy.

    The reference is a frozen copy of the actor; None where the actor is an adapter on frozen weights, which are the reference
    with the adapter switched off.
    """

    def __init__(
        self,
        actor: PreTrainedModel,
        critic_body: nn.Module,
        critic_head: nn.Linear,
        *,
        reference: PreTrainedModel | None,
        temperature: float,
    ) -> None:
        super().__init__()
        self.actor, self.critic_body, self.critic_head = actor, critic_body, critic_head
        self.reference = reference
        self.temperature = temperature
        self.plain_head = has_plain_head(actor)
        self.value_scale = (1.0, 0.0)
        """Values are a * head + b, for a head that was trained in other units (see ppo.shaping.value_scale)."""

    def forward(
        self, ids_BL: Tensor, mask_BL: Tensor, num_tokens: int, *, entropy_gradient: bool = False, with_reference: bool = False
    ) -> Passed:
        """Log-probabilities, entropies and values of the last `num_tokens` tokens.

        The value at t is that of the state before token t: it is read where the token before it stands. The entropies carry a
        gradient where `entropy_gradient`, for the memory of one more array of the size of the logits.
        """
        logprobs_BT, entropy_BT = self._measured(self.actor, ids_BL, mask_BL, num_tokens, entropy_gradient=entropy_gradient)
        reference_BT = self._reference(ids_BL, mask_BL, num_tokens) if with_reference else None
        return Passed(logprobs_BT, entropy_BT, self.values(ids_BL, mask_BL, num_tokens), reference_BT)

    def values(self, ids_BL: Tensor, mask_BL: Tensor, num_tokens: int) -> Tensor:
        """Values of shape (B, T)."""
        hidden_BLH = self.critic_body(
            input_ids=ids_BL, attention_mask=mask_BL, position_ids=position_ids(mask_BL), use_cache=False
        ).last_hidden_state
        scale, shift = self.value_scale
        return scale * self.critic_head(hidden_BLH[:, -num_tokens - 1 : -1].float()).squeeze(-1) + shift

    @torch.no_grad()
    def _reference(self, ids_BL: Tensor, mask_BL: Tensor, num_tokens: int) -> Tensor:
        if self.reference is not None:
            return self._measured(self.reference, ids_BL, mask_BL, num_tokens)[0]
        with adapter_off(self.actor):
            return self._measured(self.actor, ids_BL, mask_BL, num_tokens)[0]

    def _measured(
        self, model: PreTrainedModel, ids_BL: Tensor, mask_BL: Tensor, num_tokens: int, *, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        return completion_logprobs(
            model, ids_BL, mask_BL, num_tokens, temperature=self.temperature, entropy_gradient=entropy_gradient, plain_head=self.plain_head
        )


def actor_critic(
    actor: PreTrainedModel,
    reward_model: PreTrainedModel | None,
    *,
    temperature: float,
    lora: LoraConfig | None = None,
    base: Source | None = None,
    seed: int = 0,
) -> ActorCritic:
    """The critic starts as a copy of the reward model where one is given, else as the policy's body with a head of zeros.

    With `lora` the actor becomes an adapter on its own weights, which stay the reference, and the critic's body one on its; the
    critic's head is trained whole. `base` says where the actor's weights lie, for those who load the adapter.
    """
    if reward_model is not None:
        body, head = copy.deepcopy(reward_model.base_model), copy.deepcopy(reward_model.get_submodule("score"))
        assert isinstance(head, nn.Linear)
    else:
        body = copy.deepcopy(actor.base_model)
        head = nn.Linear(actor.config.get_text_config().hidden_size, 1, bias=False, device=actor.device)
        nn.init.zeros_(head.weight)
    if not (lora and lora.rank):
        return ActorCritic(actor, body.float(), head.float(), reference=frozen_copy(actor), temperature=temperature)
    draw = torch.Generator().manual_seed(seed)
    for model in (actor, body):
        assert isinstance(model, PreTrainedModel)
        inject(model, lora, base=base or Source(path=str(actor.name_or_path)), draw=draw)
    return ActorCritic(actor, body, head.float(), reference=None, temperature=temperature)


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The reference policy: a copy that never learns."""
    reference = copy.deepcopy(model).eval()
    return reference.requires_grad_(False)


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Within it a model gives what it would without its adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True  # `enable_adapters` would also freeze them, under an engine that has counted on them
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
