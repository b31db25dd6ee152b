"""On a CUDA device the tree path gives what padding gives there."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForSequenceClassification

from core.models.head import padded_rewards, reward_obstacle, tree_rewards
from core.trees.attention import tree_attention
from rmtrain.loss import bradley_terry_loss

pytestmark = pytest.mark.gpu

# Two prompts of three tokens each, with two completions; ids of the 280-token vocabulary of conftest, none of them special.
GROUPS = [[(20, 21, 22, 30, 31), (20, 21, 22, 40)], [(50, 51, 52, 60, 61, 62), (50, 51, 52, 60, 70)]]
ROWS = [row for group in GROUPS for row in group]


@pytest.fixture
def model(reward_model: LlamaForSequenceClassification) -> LlamaForSequenceClassification:
    moved = copy.deepcopy(reward_model)
    nn.Module.cuda(moved)  # in place; the model's own method is typed as a wrapped function
    return moved


def pad_id(model: LlamaForSequenceClassification) -> int:
    assert isinstance(model.config.pad_token_id, int)
    return model.config.pad_token_id


def gradients(model: LlamaForSequenceClassification, rewards_R: Tensor) -> dict[str, Tensor]:
    """Of the Bradley-Terry loss of the two pairs, whose rows alternate between chosen and rejected."""
    model.zero_grad()
    bradley_terry_loss(rewards_R[0::2], rewards_R[1::2]).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_a_plain_llama_runs_on_trees_there(model: LlamaForSequenceClassification) -> None:
    assert reward_obstacle(model, 512) is None


@torch.no_grad()
def test_rewards_on_trees_equal_padded_ones_there_and_on_the_cpu(
    model: LlamaForSequenceClassification, reward_model: LlamaForSequenceClassification
) -> None:
    with tree_attention(model):
        ours_R = tree_rewards(model, GROUPS).cpu()
    torch.testing.assert_close(ours_R, padded_rewards(model, ROWS, pad_id(model)).cpu(), atol=1e-4, rtol=0)
    torch.testing.assert_close(ours_R, padded_rewards(reward_model, ROWS, pad_id(model)), atol=1e-4, rtol=0)


def test_gradients_through_trees_equal_those_through_padding_there(model: LlamaForSequenceClassification) -> None:
    with tree_attention(model):
        ours = gradients(model, tree_rewards(model, GROUPS))
    theirs = gradients(model, padded_rewards(model, ROWS, pad_id(model)))
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
