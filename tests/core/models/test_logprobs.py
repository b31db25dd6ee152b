"""Log-probabilities of completions equal a plain softmax over the whole vocabulary, wherever padding stands."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from core.data.padding import pad_left
from core.models.logprobs import completion_logits, has_plain_head, position_ids, to_padded, token_logprobs

NUM_TOKENS = 4
ROWS = [torch.randint(6, 250, (length,), generator=torch.Generator().manual_seed(length)).tolist() for length in (NUM_TOKENS + 1, 9, 17)]


def completion_logprobs(
    model: LlamaForCausalLM, ids_BL: Tensor, mask_BL: Tensor, num_tokens: int, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of the last tokens of each row, (B, T)."""
    inside_BT = mask_BL[:, -num_tokens:].bool()
    logits_NV = completion_logits(model, ids_BL, mask_BL, num_tokens)
    logprobs_N, entropy_N = token_logprobs(logits_NV, ids_BL[:, -num_tokens:][inside_BT], temperature=temperature)
    cells_N = inside_BT.flatten().nonzero().squeeze(-1)
    return to_padded(logprobs_N, cells_N, inside_BT.shape), to_padded(entropy_N, cells_N, inside_BT.shape)


@torch.no_grad()
def naive(model: LlamaForCausalLM, row: list[int], temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """One row, no padding, all logits: the distribution of token t stands at position t - 1."""
    logits_LV = model(torch.tensor([row])).logits[0] / temperature
    before_T = Categorical(logits=logits_LV[-NUM_TOKENS - 1 : -1])
    return before_T.log_prob(torch.tensor(row[-NUM_TOKENS:])), before_T.entropy()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_they_equal_a_softmax_over_the_vocabulary_row_by_row_without_padding(policy: LlamaForCausalLM, temperature: float) -> None:
    logprobs_BT, entropy_BT = completion_logprobs(policy, *pad_left(ROWS, pad_id=0), NUM_TOKENS, temperature=temperature)
    assert logprobs_BT.shape == entropy_BT.shape == (3, NUM_TOKENS)
    for row, logprobs_T, entropy_T in zip(ROWS, logprobs_BT, entropy_BT, strict=True):
        expected_logprobs_T, expected_entropy_T = naive(policy, row, temperature)
        torch.testing.assert_close(logprobs_T, expected_logprobs_T, atol=1e-5, rtol=0)
        torch.testing.assert_close(entropy_T, expected_entropy_T, atol=1e-5, rtol=0)


def test_more_padding_at_the_start_changes_nothing(policy: LlamaForCausalLM) -> None:
    ids, mask = pad_left(ROWS, pad_id=0)
    wider_ids = torch.cat([torch.full((3, 6), 77), ids], 1)  # whatever stands under the mask
    wider_mask = torch.cat([torch.zeros(3, 6, dtype=mask.dtype), mask], 1)
    for narrow, wide in zip(
        completion_logprobs(policy, ids, mask, NUM_TOKENS), completion_logprobs(policy, wider_ids, wider_mask, NUM_TOKENS), strict=True
    ):
        torch.testing.assert_close(narrow, wide, atol=1e-5, rtol=0)


def test_padding_behind_a_shorter_completion_changes_nothing(policy: LlamaForCausalLM) -> None:
    row = ROWS[2]
    ids = torch.tensor([[*row, 0, 0]])
    mask = torch.tensor([[1] * len(row) + [0, 0]])
    logprobs_BT, _ = completion_logprobs(policy, ids, mask, NUM_TOKENS + 2)
    torch.testing.assert_close(logprobs_BT[0, :NUM_TOKENS], naive(policy, row)[0], atol=1e-5, rtol=0)


def test_positions_count_attended_tokens() -> None:
    assert position_ids(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3]]


def test_gradients_reach_the_weights_through_the_logprobs_and_not_through_the_entropy(policy: LlamaForCausalLM) -> None:
    logprobs_BT, entropy_BT = completion_logprobs(policy, *pad_left(ROWS, pad_id=0), NUM_TOKENS)
    assert logprobs_BT.requires_grad
    assert not entropy_BT.requires_grad


def test_padding_has_zeros(policy: LlamaForCausalLM) -> None:
    ids, mask = pad_left(ROWS, pad_id=0)
    ids, mask = torch.cat([ids, torch.zeros_like(ids[:, :2])], 1), torch.cat([mask, torch.tensor([[1, 1], [1, 0], [0, 0]])], 1)
    for measured_BT in completion_logprobs(policy, ids, mask, NUM_TOKENS):
        assert (measured_BT != 0).tolist() == [[True] * 4, [True] * 3 + [False], [True] * 2 + [False] * 2]


def test_a_head_that_caps_its_logits_is_not_plain(tokenizer: PreTrainedTokenizerFast) -> None:
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
    )
    assert config.final_logit_softcapping
    assert not has_plain_head(Gemma2ForCausalLM(config).eval())
