"""Products by two bf16 parts of each factor are nearly as exact as in fp32, and so is a head that computes by them.

On a CPU the parts multiply in fp32, which is exact as matrix units are. Shapes as in core.models.fused.halves.
"""

# pyright: reportPrivateUsage=false

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from core.models import logprobs
from core.models.fused import halves
from core.models.fused.halves import Halves, halved, multiplies_by_halves, product, wide_product
from core.models.logprobs import TokenQuery
from tests.core.models.test_language_head import QUERIES, VOCABULARY, head_of, measured, tokens

ROADS = pytest.mark.parametrize("multiply", [product, wide_product])


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def errors(left: Tensor, right: Tensor, multiply: Any) -> tuple[float, float, float]:
    """The largest error over the largest value: by halves, of fp32, and of bf16 with fp32 sums."""
    truth = left.double() @ right.double()
    found = multiply(halved(left), halved(right)), left @ right, left.bfloat16().float() @ right.bfloat16().float()
    by_halves, plain, rounded = (((values - truth).abs().max() / truth.abs().max()).item() for values in found)
    return by_halves, plain, rounded


@ROADS
@pytest.mark.parametrize(("left", "right"), [(1.0, 1.0), (1e-3, 1e3), (1e3, 1e3), (1e-3, 1e-3), (1e-12, 1e12)])
def test_the_error_is_hundreds_of_times_smaller_than_that_of_bf16_at_any_scale(left: float, right: float, multiply: Any) -> None:
    by_halves, plain, rounded = errors(left * drawn(30, 700), right * drawn(700, 90), multiply)
    assert by_halves < 8e-6
    assert plain < 2e-6
    assert rounded > 400 * by_halves


@ROADS
def test_factors_of_mixed_scales_are_as_exact(multiply: Any) -> None:
    scales = 10 ** torch.linspace(-3, 3, 700)
    assert errors(drawn(30, 700) * scales, drawn(700, 90) / scales[:, None], multiply)[0] < 8e-6
    assert errors(drawn(30, 700) * scales, drawn(700, 90) * scales[:, None], multiply)[0] < 8e-6


def test_logits_as_far_apart_as_a_policys_are_off_by_ten_thousandths_of_a_nat_at_most() -> None:
    hidden, weight = 3 * drawn(50, 2048), 0.1 * drawn(2048, 400)
    truth = hidden.double() @ weight.double()
    assert truth.std() > 10
    off = (product(halved(hidden), halved(weight)) - truth).abs()
    assert off.max() < 5e-4
    assert off.median() < 5e-5


@ROADS
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_stays_so_where_it_is_and_nowhere_else(value: float, multiply: Any) -> None:
    left, right = drawn(5, 8), drawn(8, 6)
    left[2, 3] = value
    finite = multiply(halved(left), halved(right)).isfinite()
    assert not finite[2].any()
    assert finite[[0, 1, 3, 4]].all()


@pytest.mark.parametrize("options", QUERIES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_head_by_halves_gives_the_values_and_gradients_of_one_in_fp32(
    options: Any, bias: bool, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, query = head_of(bias=bias, scale=2.0), TokenQuery(tokens_N=tokens(), **options)
    if chunked:
        monkeypatch.setattr(logprobs, "CHUNK", logprobs.UNIT * VOCABULARY)
    expected = measured(head, query)
    splits: list[tuple[int, ...]] = []
    split = logprobs.halved
    monkeypatch.setattr(logprobs, "multiplies_by_halves", lambda hidden, weight: True)
    monkeypatch.setattr(logprobs, "halved", lambda matrix: (splits.append(tuple(matrix.shape)), split(matrix))[1])
    found = measured(head, query)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4 * plain.abs().max().item(), rtol=0)
    assert splits.count(tuple(head.weight.shape)) == 2, "the weight is split once a pass, whatever the number of chunks"
    head.weight.requires_grad_(False)  # as under an adapter
    torch.testing.assert_close(measured(head, query)[1], found[1])


def test_the_same_states_have_the_same_log_probabilities_with_and_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first ratios of an update are exactly 1.
    monkeypatch.setattr(logprobs, "multiplies_by_halves", lambda hidden, weight: True)
    head, hidden_NH = head_of(), drawn(150, 24)
    with torch.no_grad():
        before = head(hidden_NH, TokenQuery(tokens_N=tokens()))
    assert head(hidden_NH.requires_grad_(), TokenQuery(tokens_N=tokens(), entropy=True))[0].equal(before[0])


def test_the_trial_passes_and_finds_products_that_are_those_of_bf16(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert halves._error(torch.device("cpu")) < 8e-6
    monkeypatch.setattr(halves, "halved", lambda matrix: Halves(matrix.bfloat16(), torch.zeros_like(matrix).bfloat16()))
    halves._works.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not halves._works(torch.device("cpu"))
    halves._works.cache_clear()
    (line,) = caplog.messages
    assert line.startswith("heads compute in IEEE fp32, slower: by two parts in bf16 they fail (its values are 0.00")


def test_on_a_cpu_heads_compute_in_fp32() -> None:
    assert not multiplies_by_halves(drawn(2, 3), drawn(2, 3))


@pytest.mark.parametrize(("vocabulary", "hidden", "gains"), [
    (128_256, 2048, True),
    (49_152, 576, True),
    (128_256, 4096, False),  # of 8B: the parts would take 2 GB
    (50_257, 768, False),  # GPT-2's rows are no multiple of 8
    (280, 16, False),
])  # fmt: skip
def test_weights_are_split_where_it_gains_and_takes_little(vocabulary: int, hidden: int, gains: bool) -> None:
    weight_VH = torch.empty(vocabulary, hidden, device="meta")
    assert halves._gains(weight_VH) == gains
    assert not halves._gains(weight_VH.bfloat16())
