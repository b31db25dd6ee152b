"""Actor and critic in one module, so that one engine wraps, shards and saves both."""

import copy

from torch import Tensor, nn
from transformers import PreTrainedModel

from core.logprobs import completion_logprobs, position_ids


class ActorCritic(nn.Module):
    """A causal language model and a critic with a body of its own and a scalar head."""

    def __init__(self, actor: PreTrainedModel, critic_body: nn.Module, critic_head: nn.Linear, *, temperature: float) -> None:
        super().__init__()
        self.actor, self.critic_body, self.critic_head = actor, critic_body, critic_head
        self.temperature = temperature

    def forward(self, ids_BL: Tensor, mask_BL: Tensor, num_tokens: int, *, entropy_gradient: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values of the last `num_tokens` tokens, each of shape (B, T).

        The value at t is that of the state before token t: it is read where the token before it stands. The entropies carry a
        gradient where `entropy_gradient`, for the memory of one more array of the size of the logits.
        """
        logprobs_BT, entropy_BT = completion_logprobs(
            self.actor, ids_BL, mask_BL, num_tokens, temperature=self.temperature, entropy_gradient=entropy_gradient
        )
        return logprobs_BT, entropy_BT, self.values(ids_BL, mask_BL, num_tokens)

    def values(self, ids_BL: Tensor, mask_BL: Tensor, num_tokens: int) -> Tensor:
        """Values of shape (B, T)."""
        hidden_BLH = self.critic_body(
            input_ids=ids_BL, attention_mask=mask_BL, position_ids=position_ids(mask_BL), use_cache=False
        ).last_hidden_state
        return self.critic_head(hidden_BLH[:, -num_tokens - 1 : -1].float()).squeeze(-1)


def actor_critic(actor: PreTrainedModel, reward_model: PreTrainedModel | None, *, temperature: float) -> ActorCritic:
    """The critic starts as a copy of the reward model where one is given, else as the policy's body with a head of zeros."""
    if reward_model is not None:
        body, head = copy.deepcopy(reward_model.base_model), copy.deepcopy(reward_model.get_submodule("score"))
        assert isinstance(head, nn.Linear)
    else:
        body = copy.deepcopy(actor.base_model)
        head = nn.Linear(actor.config.get_text_config().hidden_size, 1, bias=False)
        nn.init.zeros_(head.weight)
    return ActorCritic(actor, body.float(), head.float(), temperature=temperature)


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The reference policy: a copy that never learns."""
    reference = copy.deepcopy(model).eval()
    return reference.requires_grad_(False)
