"""Under bf16 autocast the layers compute in bf16, and log-probabilities and values in fp32."""

import copy

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedModel

from core.config import Dtype
from core.models import logprobs
from core.process.precision import autocast
from core.trees.attention import encode, tree_attention
from core.trees.layout import pack_rows
from ppo.model import UNIT, ActorCritic, actor_critic

ROW = torch.randint(6, 250, (UNIT,), generator=torch.Generator().manual_seed(0))
NUM_TOKENS = 40
CPU = torch.device("cpu")


@pytest.fixture
def networks(policy: LlamaForCausalLM, reward_model: LlamaForSequenceClassification) -> ActorCritic:
    actor = copy.deepcopy(policy)
    with torch.no_grad():
        actor.lm_head.weight.mul_(4)  # logits of the size of a real model's
    return actor_critic(actor, reward_model, temperature=1.0).eval()


@torch.no_grad()
def hidden(body: torch.nn.Module) -> Tensor:
    """What the body says under autocast in the places that predict the last tokens, (T, H)."""
    assert isinstance(body, PreTrainedModel)
    with tree_attention(body), autocast(CPU, Dtype.bf16):
        return encode(body, pack_rows([ROW.numpy()]))[-NUM_TOKENS - 1 : -1].double()


@pytest.mark.parametrize("chunked", [False, True])
@torch.no_grad()
def test_the_heads_of_policy_reference_and_critic_are_not_in_bf16(
    networks: ActorCritic, reward_model: LlamaForSequenceClassification, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = networks.actor
    assert isinstance(actor, LlamaForCausalLM)
    if chunked:
        monkeypatch.setattr(logprobs, "UNIT", 8)
        monkeypatch.setattr(logprobs, "CHUNK", 8 * len(actor.lm_head.weight))
    with autocast(CPU, Dtype.bf16):
        output = networks(ROW[None], torch.ones_like(ROW)[None], NUM_TOKENS, with_reference=True)
    before = Categorical(logits=hidden(actor.model) @ actor.lm_head.weight.double().T)
    expected_T = before.log_prob(ROW[-NUM_TOKENS:])
    # In bf16 the largest error is 0.1, of the entropy 0.05, and the values are multiples of 1/128.
    torch.testing.assert_close(output.logprobs_BT[0].double(), expected_T, atol=1e-4, rtol=0)
    assert output.reference_BT is not None
    torch.testing.assert_close(output.reference_BT[0].double(), expected_T, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.entropy_BT[0].double(), before.entropy(), atol=1e-4, rtol=0)
    values_T = hidden(networks.critic_body) @ reward_model.score.weight[0].double()
    torch.testing.assert_close(output.values_BT[0].double(), values_T, atol=1e-5, rtol=0)


def test_the_entropy_is_computed_only_where_it_is_asked_for(networks: ActorCritic) -> None:
    ids_BL, mask_BL = ROW[None], torch.ones_like(ROW)[None]
    assert networks(ids_BL, mask_BL, NUM_TOKENS).entropy_BT.abs().min() > 0
    assert not networks(ids_BL, mask_BL, NUM_TOKENS).entropy_BT.requires_grad
    assert networks(ids_BL, mask_BL, NUM_TOKENS, entropy_gradient=True).entropy_BT.requires_grad
    assert not networks(ids_BL, mask_BL, NUM_TOKENS, entropy=False).entropy_BT.any()
