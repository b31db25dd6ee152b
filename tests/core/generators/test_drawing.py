"""Drawing by our own kernels draws what torch's operations do, in two passes. How tokens are drawn at all: test_local.py."""

# pyright: reportPrivateUsage=false

import logging
import sys

import pytest
import torch
from torch import Tensor

from core.generators import drawing
from core.generators.drawing import CHUNK, drawn_by_chunk, sample_tokens
from tests.kernels import DEVICE, needs_kernels


def drawn(logits_RV: Tensor, temperature: float, uniforms_R: Tensor) -> tuple[Tensor, Tensor]:
    from core.generators.kernels import draw_tokens

    tokens_R, logprobs_R = draw_tokens(logits_RV.to(DEVICE), temperature, uniforms_R.to(DEVICE), CHUNK)
    return tokens_R.cpu(), logprobs_R.cpu()


@needs_kernels
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("vocabulary", [200, 256, 1000, 5003])
def test_the_kernels_draw_what_operations_do(vocabulary: int, temperature: float) -> None:
    draw = torch.Generator().manual_seed(0)
    logits_RV, uniforms_R = torch.randn(60, vocabulary, generator=draw) * 4, torch.rand(60, generator=draw)
    logits_RV[:, ::3] = -torch.inf
    tokens_R, logprobs_R = drawn(logits_RV, temperature, uniforms_R)
    expected_R, expected_logprobs_R = sample_tokens(logits_RV, temperature, uniforms_R)
    same_R = tokens_R == expected_R
    assert same_R.sum() >= 59  # where they differ, a boundary was rounded
    torch.testing.assert_close(logprobs_R[same_R], expected_logprobs_R[same_R], atol=2e-5, rtol=0)
    assert logprobs_R.isfinite().all()


@needs_kernels
def test_evenly_spread_uniforms_draw_every_token_in_its_share_across_chunks() -> None:
    shares = {3: 0.4, 255: 0.3, 256: 0.2, 600: 0.05, 767: 0.04, 899: 0.01}
    logits_V = torch.full((900,), -torch.inf)
    logits_V[list(shares)] = torch.tensor(list(shares.values())).log() + 70
    tokens_R, logprobs_R = drawn(logits_V.repeat(100, 1), 1.0, (torch.arange(100) + 0.5) / 100)
    assert dict(zip(*[part.tolist() for part in tokens_R.unique(return_counts=True)], strict=True)) == {
        token: round(100 * share) for token, share in shares.items()
    }
    assert logprobs_R[0].item() == pytest.approx(torch.tensor(0.4).log().item(), abs=1e-5)


@needs_kernels
def test_at_neither_end_of_a_row_an_impossible_token_is_drawn() -> None:
    logits_RV = torch.full((4, 1030), -torch.inf)
    logits_RV[:, [300, 700]] = 0.0
    tokens_R, logprobs_R = drawn(logits_RV, 1.0, torch.tensor([0.0, 0.4999, 0.5001, 1 - 2**-24]))
    assert tokens_R.tolist() == [300, 300, 700, 700]
    torch.testing.assert_close(logprobs_R, torch.full((4,), 0.5).log())


@needs_kernels
def test_the_trial_passes_and_finds_kernels_that_draw_something_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from core.generators import kernels

    assert drawing._error(DEVICE) < 2e-5
    right = kernels.draw_tokens
    monkeypatch.setattr(kernels, "draw_tokens", lambda logits_RV, *rest: right(logits_RV.roll(1, -1), *rest))
    drawing._works.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not drawing._works(DEVICE)
    drawing._works.cache_clear()
    assert caplog.messages == ["tokens are drawn by several passes over the logits, slower: its kernels fail (its values are inf off)"]


def test_without_triton_the_trial_fails_in_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "core.generators.kernels", None)  # as where the import fails
    drawing._works.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not drawing._works(torch.device("cpu"))
    drawing._works.cache_clear()
    (line,) = caplog.messages
    assert line.startswith("tokens are drawn by several passes over the logits, slower: its kernels fail (")


def test_on_a_cpu_and_in_other_formats_the_kernels_are_not_asked_for() -> None:
    assert not drawing._fits_kernels(torch.zeros(2, 300))


def test_drawing_by_chunk_draws_what_one_sum_over_the_vocabulary_does_and_nothing_impossible() -> None:
    draw = torch.Generator().manual_seed(0)
    logits_RV = torch.randn(500, 1000, generator=draw) * 3
    logits_RV[:, ::7] = -torch.inf
    probabilities_RV, uniforms_R = logits_RV.softmax(-1), torch.rand(500, generator=draw)
    plain_R, _ = sample_tokens(logits_RV, 1.0, uniforms_R)
    ours_R = drawn_by_chunk(probabilities_RV, uniforms_R)
    assert (ours_R == plain_R).float().mean() > 0.99  # where they differ, a boundary was rounded
    assert (probabilities_RV.gather(1, ours_R[:, None]) > 0).all()
    last = torch.full((500,), 1 - 2**-24)
    assert (probabilities_RV.gather(1, drawn_by_chunk(probabilities_RV, last)[:, None]) > 0).all()
    only = torch.zeros(1, 1000).index_fill(1, torch.tensor([255]), 1.0)
    assert [drawn_by_chunk(only, torch.tensor([u])).item() for u in (0.0, 0.5, 1 - 2**-24)] == [255] * 3
