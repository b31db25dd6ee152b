"""Completions follow the policy's distribution and depend on seed, prompt and place alone, never on the batches."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.data.chat import encode_prompts
from core.data.padding import pad_left
from core.generators import local as generate
from core.generators.drawing import sample_tokens
from core.generators.local import GROWTH, TransformersGenerator, growing_cache
from core.records import Completion, Dialogue, Sampling, user
from tests.fakes import only_id

# Lengths differ, and not in the order of the list, so that sorting and padding both happen.
PROMPTS = [user("Name " + "a short " * repeats + "fruit.") for repeats in (0, 3, 1, 7, 12, 2, 5)]
SAMPLED = Sampling(n=3, max_new_tokens=24, seed=5)
GREEDY = Sampling(temperature=0, max_new_tokens=40)


def token_ids(completions: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in row] for row in completions]


@contextmanager
def forward_shapes(model: LlamaForCausalLM) -> Generator[list[tuple[int, int]]]:
    """The (rows, tokens) of every forward pass in the block."""
    shapes: list[tuple[int, int]] = []

    def note(_module: object, _args: object, kwargs: dict[str, torch.Tensor]) -> None:
        rows, tokens = kwargs["input_ids"].shape
        shapes.append((rows, tokens))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shapes
    finally:
        handle.remove()


@pytest.mark.parametrize("batch_size", [1, 4, 9])
def test_the_batch_size_changes_no_completion(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, batch_size: int) -> None:
    whole = TransformersGenerator(policy, tokenizer).generate(PROMPTS, SAMPLED)
    parts = TransformersGenerator(policy, tokenizer, batch_size=batch_size).generate(PROMPTS, SAMPLED)
    assert parts == whole
    assert len({completion.token_ids for row in whole for completion in row}) > len(PROMPTS)  # not all alike, so the test can fail


def test_a_batch_holds_no_more_rows_than_fit_into_memory_and_that_changes_no_completion(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TransformersGenerator(policy, tokenizer).generate(PROMPTS, SAMPLED)
    # Of a token two layers keep keys and values of two heads, eight numbers of four bytes each: 256 bytes.
    length = max(map(len, encode_prompts(tokenizer, PROMPTS))) + 24
    monkeypatch.setattr("core.generators.room.free_bytes", lambda device: 20 * 7 * length * 256)
    with forward_shapes(policy) as shapes:
        assert TransformersGenerator(policy, tokenizer, memory=0.05).generate(PROMPTS, SAMPLED) == whole
    prefills = [rows for rows, tokens in shapes if tokens > 1][-4:]  # after those with which the architecture is tried
    assert prefills == [2, 2, 2, 1]  # a twentieth is room for seven rows, which is two prompts of three completions
    assert max(rows for rows, _ in shapes) == 6


def test_a_completion_does_not_depend_on_the_lengths_of_the_other_prompts(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    generator = TransformersGenerator(policy, tokenizer)
    alone = generator.generate(PROMPTS[:1], SAMPLED)
    for other in (user("a"), user("a short fruit " * 20)):
        assert generator.generate([PROMPTS[0], other], SAMPLED)[0] == alone[0]


def test_greedy_completions_do_not_depend_on_the_order_of_the_prompts(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    generator = TransformersGenerator(policy, tokenizer, batch_size=3)
    assert generator.generate(PROMPTS[::-1], GREEDY) == generator.generate(PROMPTS, GREEDY)[::-1]


def test_greedy_completions_equal_those_of_transformers(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ids, mask = pad_left(encode_prompts(tokenizer, PROMPTS), only_id(tokenizer.pad_token_id))
    typeless: Any = policy  # the types of transformers hide generate() from its own models
    output = typeless.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=GREEDY.max_new_tokens)
    expected = [until_eos(row, only_id(tokenizer.eos_token_id)) for row in output[:, ids.shape[1] :].tolist()]
    assert [list(row[0]) for row in token_ids(TransformersGenerator(policy, tokenizer).generate(PROMPTS, GREEDY))] == expected
    assert len({len(row) for row in expected}) > 1  # some end before others


def until_eos(row: list[int], eos: int) -> list[int]:
    return row[: row.index(eos) + 1] if eos in row else row


def test_a_seed_repeats_its_completions_and_another_seed_gives_others(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    generator = TransformersGenerator(policy, tokenizer)
    first = generator.generate(PROMPTS, SAMPLED)
    assert generator.generate(PROMPTS, SAMPLED) == first
    assert generator.generate(PROMPTS, Sampling(n=3, max_new_tokens=24, seed=6)) != first


def test_equal_prompts_and_the_completions_of_one_prompt_are_drawn_apart(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = token_ids(TransformersGenerator(policy, tokenizer).generate([PROMPTS[1]] * 3, SAMPLED))
    assert len({ids for row in rows for ids in row}) == 9


def test_a_temperature_near_zero_is_greedy(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    generator = TransformersGenerator(policy, tokenizer)
    cold = generator.generate(PROMPTS, Sampling(temperature=1e-4, max_new_tokens=GREEDY.max_new_tokens))
    assert cold == generator.generate(PROMPTS, GREEDY)


def test_each_prompt_is_read_once_whatever_the_number_of_completions(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    width = max(map(len, encode_prompts(tokenizer, PROMPTS)))
    generator = TransformersGenerator(policy, tokenizer)
    with forward_shapes(policy) as shapes:
        generator.generate(PROMPTS, SAMPLED)
    assert shapes[0] == (len(PROMPTS), width)
    assert shapes[1] == (len(PROMPTS) * SAMPLED.n, 1)


def test_finished_rows_leave_the_batch_and_that_changes_no_completion(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = TransformersGenerator(policy, tokenizer)
    counts: dict[float, list[int]] = {}
    results = []
    for keep_rows in (0.0, generate.KEEP_ROWS, 1.0):  # never, as it is, at once
        monkeypatch.setattr(generate, "KEEP_ROWS", keep_rows)
        with forward_shapes(policy) as shapes:
            results.append(generator.generate(PROMPTS, SAMPLED))
        counts[keep_rows] = [rows for rows, _ in shapes[1:]]
    assert results[0] == results[1] == results[2]
    assert set(counts[0.0]) == {21}  # 7 prompts x 3
    assert len(set(counts[0.75])) > 2  # left more than once
    # Written at step t are the rows with more than t tokens: with immediate leaving, exactly those are computed.
    lengths = [len(ids) for row in token_ids(results[0]) for ids in row]
    assert counts[1.0] == [sum(length > step for length in lengths) for step in range(1, max(lengths))]


def test_the_cache_is_copied_once_for_many_tokens(policy: LlamaForCausalLM) -> None:
    cache = growing_cache(policy.config)
    token_RHLC = torch.ones(2, 2, 1, 8)
    keys, places = token_RHLC, set[int]()
    for step in range(2 * GROWTH):
        keys, _ = cache.update(step * token_RHLC, token_RHLC, 0)
        places.add(keys.data_ptr())
    assert keys[0, 0, :, 0].tolist() == list(range(2 * GROWTH))
    assert len(places) <= 3  # the first token, and room made twice


def test_a_completion_is_finished_exactly_when_it_ends_with_eos(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    eos = tokenizer.eos_token_id
    completions = [c for row in TransformersGenerator(policy, tokenizer).generate(PROMPTS, SAMPLED) for c in row]
    assert {completion.finished for completion in completions} == {True, False}
    for completion in completions:
        assert completion.finished == (completion.token_ids[-1] == eos)
        assert eos not in completion.token_ids[:-1]
        assert completion.finished or len(completion.token_ids) == SAMPLED.max_new_tokens
        assert completion.text == tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)


def test_no_prompts_give_no_completions(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert TransformersGenerator(policy, tokenizer).generate([], SAMPLED) == []


def test_evenly_spread_uniforms_draw_every_token_in_its_exact_share() -> None:
    # Logits T log p at temperature T have the distribution p; the hundred midpoints then fall into each token 100 p times.
    shares = [0.4, 0.3, 0.2, 0.05, 0.04, 0.01]
    logits = 0.5 * torch.tensor(shares).log().repeat(100, 1)
    tokens, logprobs = sample_tokens(logits, 0.5, (torch.arange(100) + 0.5) / 100)
    assert tokens.bincount(minlength=6).tolist() == [40, 30, 20, 5, 4, 1]
    torch.testing.assert_close(logprobs, torch.tensor(shares).log()[tokens])


def test_a_token_without_probability_is_drawn_at_neither_end() -> None:
    logits = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]]).repeat(2, 1)
    ends = torch.tensor([0.0, 1 - 2**-24])  # the least and the greatest number that torch.rand gives
    assert sample_tokens(logits, 1.0, ends)[0].tolist() == [1, 2]


def test_temperature_zero_draws_the_most_likely_token() -> None:
    tokens, logprobs = sample_tokens(torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 1.0]]), 0.0, torch.tensor([0.99, 0.99]))
    assert (tokens.tolist(), logprobs.tolist()) == ([1, 0], [0.0, 0.0])  # certain


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_first_tokens_follow_the_softmax_of_the_policy(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, temperature: float
) -> None:
    prompt: Dialogue = PROMPTS[2]
    num = 4000
    with torch.no_grad():
        logits = policy(torch.tensor(encode_prompts(tokenizer, [prompt]))).logits[0, -1]
    expected = num * torch.softmax(logits.double() / temperature, 0)
    rows = TransformersGenerator(policy, tokenizer).generate([prompt], Sampling(n=num, max_new_tokens=1, temperature=temperature, seed=11))
    observed = torch.tensor([ids[0] for ids in token_ids(rows)[0]]).bincount(minlength=len(logits)).double()
    # Pearson's statistic over tokens expected at least 5 times, the rest as one bin. It has mean k and variance 2k for k
    # degrees of freedom; the seed is fixed, and 4 standard deviations leave no room for another temperature.
    common = expected >= 5
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    observed = torch.cat([observed[common], observed[~common].sum()[None]])
    statistic, freedom = ((observed - expected) ** 2 / expected).sum().item(), len(expected) - 1
    assert freedom > 50
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)
