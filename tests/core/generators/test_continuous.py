"""Continuous batching gives completions of the policy, repeatably, and leaves the rest of the run's randomness alone."""

# pyright: reportPrivateUsage=false

import math
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.data.chat import encode_prompts
from core.generators.continuous import ContinuousGenerator
from core.generators.local import TransformersGenerator
from core.models.logprobs import completion_logits, token_logprobs
from core.records import Sampling, user

PROMPTS = [user("Name " + "a short " * repeats + "fruit.") for repeats in (0, 3, 1, 7, 12)]
SAMPLED = Sampling(n=3, max_new_tokens=16, seed=5, temperature=0.7)


@pytest.fixture
def generator(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> ContinuousGenerator:
    return ContinuousGenerator(policy, tokenizer)


def test_greedy_completions_are_those_of_the_other_engine(
    generator: ContinuousGenerator, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    greedy = Sampling(temperature=0, max_new_tokens=24)
    found = generator.generate(PROMPTS, greedy)
    assert found == TransformersGenerator(policy, tokenizer).generate(PROMPTS, greedy)
    assert {completion.finished for [completion] in found} == {True, False}
    assert all(completion.logprobs == (0.0,) * len(completion.token_ids) for [completion] in found)


def test_equal_calls_give_equal_completions_and_another_seed_or_place_others(generator: ContinuousGenerator) -> None:
    first = generator.generate(PROMPTS, SAMPLED)
    assert [len(row) for row in first] == [3] * 5
    assert len({completion.token_ids for row in first for completion in row}) == 15
    torch.rand(1)
    assert generator.generate(PROMPTS, SAMPLED) == first
    for other in (
        Sampling(n=3, max_new_tokens=16, seed=6, temperature=0.7),
        Sampling(n=3, max_new_tokens=16, seed=5, temperature=0.7, first=5),
    ):
        assert generator.generate(PROMPTS, other) != first


def test_logprobs_are_those_of_the_policy_at_the_sampling_temperature(
    generator: ContinuousGenerator, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    for prompt, row in zip(encode_prompts(tokenizer, PROMPTS), generator.generate(PROMPTS, SAMPLED), strict=True):
        for completion in row:
            ids = torch.tensor([[*prompt, *completion.token_ids]])
            with torch.no_grad():
                logits_NV = completion_logits(policy, ids, torch.ones_like(ids), len(completion.token_ids))
            expected, _ = token_logprobs(logits_NV, torch.tensor(completion.token_ids), temperature=0.7)
            assert completion.logprobs is not None
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=1e-4, atol=1e-4)


def test_first_tokens_follow_the_softmax_of_the_policy(
    generator: ContinuousGenerator, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    num = 400
    with torch.no_grad():
        logits = policy(torch.tensor(encode_prompts(tokenizer, PROMPTS[2:3]))).logits[0, -1]
    expected = num * torch.softmax(logits.double() / 0.7, 0)
    [row] = generator.generate(PROMPTS[2:3], Sampling(n=num, max_new_tokens=1, temperature=0.7, seed=11))
    observed = torch.tensor([completion.token_ids[0] for completion in row]).bincount(minlength=len(logits)).double()
    # Pearson's statistic as in test_generate.py; a top-k of 50, transformers' default, would leave cells empty.
    common = expected >= 5
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    observed = torch.cat([observed[common], observed[~common].sum()[None]])
    statistic, freedom = ((observed - expected) ** 2 / expected).sum().item(), len(expected) - 1
    assert freedom > 8
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_the_random_numbers_and_the_attention_of_the_run_are_left_as_they_were(
    generator: ContinuousGenerator, policy: LlamaForCausalLM
) -> None:
    attention = policy.config._attn_implementation
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    generator.generate(PROMPTS, SAMPLED)
    assert torch.equal(torch.rand(3), expected)
    assert policy.config._attn_implementation == attention


def test_an_engine_that_fails_says_so(generator: ContinuousGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(generator.model, "forward", broken)
    with pytest.raises(ValueError, match=r"finished 0 of 15 completions .*use rollout\.kind=transformers"):
        generator.generate(PROMPTS, SAMPLED)


def test_no_prompts_give_no_completions(generator: ContinuousGenerator) -> None:
    assert generator.generate([], SAMPLED) == []
