"""The sequences that a kernel for CUDA devices is given are the trees: only the kernel itself is a stand-in here."""

# pyright: reportPrivateUsage=false

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from core.trees import attention, varlen
from core.trees.attention import encode, tree_attention, tree_stream
from core.trees.layout import Stream, pack_rows, pack_trees
from core.trees.varlen import attend_by_sequence, fits_kernel

PREAMBLE = list(range(10, 15))
PROMPT = [*PREAMBLE, *range(20, 170)]
GROUPS = [
    [[*PROMPT, 1, 2], [*PROMPT, *range(30, 60), 3], [*PROMPT, *range(30, 60), 4, 5], PROMPT],
    [[7, 8, 9], [6]],
    [[*PREAMBLE, 40, 41, 42, 43, 44, 45, 46, 47, 1], [*PREAMBLE, 40, 41, 42, 43, 44, 45, 46, 47, 2, 3]],
]


def reference(
    query_NHD: Tensor,
    key_KJD: Tensor,
    value_KJD: Tensor,
    query_bounds: Tensor,
    key_bounds: Tensor,
    most_queries: int,
    most_keys: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """What `varlen_attn` documents, one sequence at a time: causal, aligned to the end of the keys."""
    assert window_size == (-1, 0)
    assert query_bounds.dtype == key_bounds.dtype == torch.int32
    assert (query_bounds[-1], key_bounds[-1]) == (len(query_NHD), len(key_KJD)), "the kernel leaves what no sequence holds unwritten"
    assert (query_bounds.diff().max(), key_bounds.diff().max()) == (most_queries, most_keys)
    # Older releases of torch take grouped heads unasked.
    assert enable_gqa == (bool(varlen._GROUPED) and query_NHD.shape[1] != key_KJD.shape[1])
    parts: list[Tensor] = []
    for queries, keys in zip(query_bounds.unfold(0, 2, 1).tolist(), key_bounds.unfold(0, 2, 1).tolist(), strict=True):
        query, key, value = query_NHD[slice(*queries)], key_KJD[slice(*keys)], value_KJD[slice(*keys)]
        repeats = query.shape[1] // key.shape[1]
        scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(repeats, 1)) * (scale or query.shape[-1] ** -0.5)
        place_Q1 = torch.arange(len(query))[:, None] + len(key) - len(query)
        scores = scores.masked_fill(torch.arange(len(key)) > place_Q1, float("-inf"))
        parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value.repeat_interleave(repeats, 1)))
    return torch.cat(parts)


def random_heads(length: int, num_heads: int, num_key_heads: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, length, 8, generator=draw, requires_grad=True) for heads in (num_heads, num_key_heads, num_key_heads)]


def gradients(out: Tensor, heads: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum(), heads)


@pytest.mark.parametrize(("num_heads", "num_key_heads"), [(2, 2), (4, 2)])
@pytest.mark.parametrize("preamble", [[], PREAMBLE], ids=["alone", "below a preamble"])
def test_outputs_and_gradients_by_sequence_are_those_by_block(num_heads: int, num_key_heads: int, preamble: list[int]) -> None:
    cut, whole = pack_trees(GROUPS, preamble), pack_trees(GROUPS, preamble, whole=True)
    assert cut.ids_N.equal(whole.ids_N)
    assert (len(whole.lengths) < len(cut.lengths)) == bool(preamble)  # below a preamble the long prompt is cut
    heads = random_heads(whole.num_tokens, num_heads, num_key_heads)
    by_block = attention._attend_by_block(heads[0], heads[1], heads[2], attention.Plan(cut), 0.3).transpose(1, 2)
    ours = attend_by_sequence(heads[0], heads[1], heads[2], whole.sequences(), 0.3, kernel=reference)
    torch.testing.assert_close(ours, by_block, atol=1e-5, rtol=0)
    for own, theirs in zip(gradients(ours, heads), gradients(by_block, heads), strict=True):
        torch.testing.assert_close(own, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("num_heads", "num_key_heads"), [(2, 2), (4, 2)])
def test_a_whole_stream_gives_the_same_by_block_as_fp32_on_a_gpu_needs_it(num_heads: int, num_key_heads: int) -> None:
    cut, whole = pack_trees(GROUPS, PREAMBLE), pack_trees(GROUPS, PREAMBLE, whole=True)
    query, key, value = random_heads(whole.num_tokens, num_heads, num_key_heads)
    by_block, by_segment = (attention._attend_by_block(query, key, value, attention.Plan(stream), None) for stream in (cut, whole))
    torch.testing.assert_close(by_segment, by_block, atol=1e-5, rtol=0)


def test_the_sequences_of_two_levels_written_out() -> None:
    prompt = list(range(50, 58))
    stream = pack_trees([[[*prompt, 1, 2], [*prompt, 3]], [[4, 5]]], whole=True)
    sequences = stream.sequences()
    assert stream.lengths == (8, 2, 1, 2)
    assert sequences.query_bounds.tolist() == [0, 8, 10, 11, 13]
    assert sequences.key_bounds.tolist() == [0, 8, 18, 27, 29]
    assert sequences.keys_K is not None
    assert sequences.keys_K.tolist() == [*range(8), *range(10), *range(8), 10, 11, 12]
    assert (sequences.most_queries, sequences.most_keys) == (8, 10)


def test_rows_that_share_nothing_need_no_gathering_and_are_laid_out_as_trees_are() -> None:
    rows = [[5, 6, 7], [5, 6], [0] * 64]
    packed, trees = pack_rows(rows), pack_trees([[row] for row in rows])
    assert packed.sequences().keys_K is None
    assert packed.numbers.equal(trees.numbers)
    assert (packed.lengths, packed.paths, packed.ancestors) == (trees.lengths, trees.paths, trees.ancestors)
    assert (packed.runs, packed.longest) == (trees.runs, trees.longest)


def test_the_gradient_of_a_shared_prompt_is_summed_in_fp32() -> None:
    # 1 + 512 x 2^-10 = 1.5. In bf16, 1 + 2^-10 = 1 again and again.
    rows = torch.ones(2, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    gathered = varlen._gather(rows, torch.tensor([0] * 513))
    shares = torch.full((513, 1, 1), 2.0**-10, dtype=torch.bfloat16)
    shares[0] = 1
    (gradient,) = torch.autograd.grad(gathered, rows, shares)
    assert gradient.dtype == torch.bfloat16
    assert gradient.flatten().tolist() == [1.5, 0.0]


def test_a_model_runs_on_whole_trees_as_on_cut_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    model = LlamaModel(LlamaConfig(vocab_size=200, initializer_range=0.3, **settings)).eval()
    with tree_attention(model), torch.no_grad():
        by_block = encode(model, tree_stream(model, GROUPS, PREAMBLE))
        monkeypatch.setattr(attention, "fits_kernel", lambda *heads: True)
        monkeypatch.setattr(attention, "attend_by_sequence", by_reference)
        by_sequence = encode(model, pack_trees(GROUPS, PREAMBLE, whole=True))
    torch.testing.assert_close(by_sequence, by_block, atol=1e-4, rtol=1e-4)


def by_reference(*arguments: Any) -> Tensor:
    return attend_by_sequence(*arguments, kernel=reference)


def test_on_a_cpu_the_kernel_is_not_asked_for() -> None:
    query, key, value = (tensor.bfloat16() for tensor in random_heads(4, 2, 2))
    assert not fits_kernel(query, key, value)


def kernel_that(monkeypatch: pytest.MonkeyPatch, kernel: Any) -> bool:
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    varlen._works.cache_clear()
    try:
        return varlen._works(torch.device("cpu"), torch.float32, 4, 2, 8)
    finally:
        varlen._works.cache_clear()


def test_a_kernel_that_gives_right_values_is_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert kernel_that(monkeypatch, reference)
    assert not caplog.records


def test_a_kernel_that_fails_or_gives_other_values_is_told_in_one_line_and_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any, **options: Any) -> Tensor:
        raise RuntimeError("LoweringException: no kernel\nfor this device")

    def aligned_to_the_beginning(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        return reference(query, key[: len(query)], value[: len(query)], rest[0], rest[0], rest[2], rest[2], **options)

    def without_values(*arguments: Any, **options: Any) -> Tensor:
        return reference(*arguments, **options) * float("nan")

    with caplog.at_level(logging.WARNING):
        assert not kernel_that(monkeypatch, broken)
        assert not kernel_that(monkeypatch, aligned_to_the_beginning)
        assert not kernel_that(monkeypatch, without_values)
    told = [record.getMessage() for record in caplog.records]
    assert [message.count("\n") for message in told] == [0, 0, 0]
    assert "varlen_attn fails here (LoweringException: no kernel)" in told[0]
    assert "values are" in told[1]
    assert "inf off" in told[2]


def test_a_stream_is_whole_only_for_a_gpu() -> None:
    model = LlamaModel(LlamaConfig(vocab_size=200, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2))

    def lengths(stream: Stream) -> tuple[int, ...]:
        return stream.lengths

    assert lengths(tree_stream(model, GROUPS, PREAMBLE)) == lengths(pack_trees(GROUPS, PREAMBLE))
