"""New tokens attend as transformers' own function has them attend, in the places where shared keys are read once and in all others."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from core.generators import grouped
from core.generators.grouped import grouped_heads
from core.generators.local import sample
from core.records import Sampling
from tests.fakes import tiny_llama

ROWS, KEY_HEADS, LENGTH, CHANNELS = 3, 2, 7, 8


def states(num_heads: int, num_queries: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    query = torch.randn(ROWS, num_heads, num_queries, CHANNELS)
    return query, torch.randn(ROWS, KEY_HEADS, LENGTH, CHANNELS), torch.randn(ROWS, KEY_HEADS, LENGTH, CHANNELS)


@pytest.mark.parametrize("mask", ["none", "padding", "by head"])
@pytest.mark.parametrize("num_queries", [1, 4])
@pytest.mark.parametrize("num_heads", [2, 6])
def test_rows_attend_as_by_the_function_of_transformers(num_heads: int, num_queries: int, mask: str) -> None:
    query, key, value = states(num_heads, num_queries)
    seen = torch.ones(ROWS, num_heads if mask == "by head" else 1, num_queries, LENGTH, dtype=torch.bool)
    seen[1, ..., :3] = False  # a row with padding on the left
    if mask == "by head":
        seen[:, -1, :, :5] = False
    allowed = None if mask == "none" else seen
    module: Any = SimpleNamespace(num_key_value_groups=num_heads // KEY_HEADS, is_causal=True)
    options: dict[str, Any] = {"scaling": 0.3}
    found, _ = AttentionInterface()[grouped.NAME](module, query, key, value, allowed, **options)
    expected, _ = sdpa_attention_forward(module, query, key, value, allowed, **options)
    torch.testing.assert_close(found, expected)


def test_the_heads_that_share_keys_are_queries_of_one_call(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = tiny_llama(tokenizer)
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 6, KEY_HEADS, CHANNELS
    model = LlamaForCausalLM(config).eval()
    shapes: list[tuple[int, ...]] = []

    def noted(query: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        shapes.append(tuple(query.shape))
        return scaled_dot_product_attention(query, *args, **options)

    monkeypatch.setattr(grouped, "scaled_dot_product_attention", noted)
    sampling = Sampling(n=2, max_new_tokens=3)
    rows, logprobs = sample(model, [[5, 6, 7], [8, 9]], [0, 1], sampling, pad=0, ends=frozenset())
    assert shapes == [(4, KEY_HEADS, 3, CHANNELS)] * (2 * config.num_hidden_layers)
    assert model.config._attn_implementation == "sdpa"  # pyright: ignore[reportPrivateUsage]
    for prompt, row, found in zip([[5, 6, 7], [5, 6, 7], [8, 9], [8, 9]], rows, logprobs, strict=True):
        logits = model(torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(row)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(found), expected, atol=1e-5, rtol=0)


def test_a_model_that_attends_by_another_function_keeps_it(policy: LlamaForCausalLM) -> None:
    policy.set_attn_implementation("eager")
    try:
        with grouped_heads(policy):
            assert policy.config._attn_implementation == "eager"  # pyright: ignore[reportPrivateUsage]
    finally:
        policy.set_attn_implementation("sdpa")
    with grouped_heads(policy):
        assert policy.config._attn_implementation == grouped.NAME  # pyright: ignore[reportPrivateUsage]
