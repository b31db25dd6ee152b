"""The kernels that draw the next token of all rows draw and write down what torch's operations do."""

# pyright: reportPrivateUsage=false

import logging
import sys
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from core.generators import answers
from core.generators.answers import Answers
from tests.kernels import DEVICE, needs_kernels

NO_ENDS = torch.tensor([2**40])


def begun(prompt_lengths: list[int], uniforms_RT: Tensor) -> Answers:
    made = Answers.empty(len(uniforms_RT), uniforms_RT.shape[1], DEVICE)
    made.begin(torch.tensor(prompt_lengths, device=DEVICE), uniforms_RT.to(DEVICE))
    return made


def drawn(logits_RV: Tensor, temperature: float, uniforms_R: Tensor) -> tuple[Tensor, Tensor]:
    """One token of each row by the kernels, and its log-probability."""
    made = begun([1] * len(logits_RV), uniforms_R[:, None])
    made.draw_by_kernels(logits_RV.to(DEVICE), temperature, NO_ENDS.to(DEVICE))
    return made.tokens_RT[:, 0].cpu(), made.logprobs_RT[:, 0].cpu()


def test_rows_are_written_down_as_they_grow_and_end() -> None:
    # Each row draws the token that its uniform points at: of four equally likely ones.
    uniforms_RT = torch.tensor([[0.1, 0.3, 0.9], [0.6, 0.9, 0.1]])
    rows = Answers.empty(2, 3, torch.device("cpu"))
    rows.begin(torch.tensor([5, 7]), uniforms_RT)
    assert rows.positions_R.tolist() == [4, 6], "the last tokens of the prompts"
    for step in range(3):
        rows.draw(torch.zeros(2, 4), 1.0, torch.tensor([1, 2]))
        assert rows.positions_R.tolist() == [5 + step, 7 + step]
        assert rows.next_R.tolist() == rows.tokens_RT[:, step].tolist()
    assert rows.tokens_RT.tolist() == [[0, 1, 3], [2, 3, 0]]
    assert rows.lengths_R.tolist() == [2, 1], "the end counts, what comes after it does not"
    assert rows.active_R.tolist() == [False, False]
    torch.testing.assert_close(rows.logprobs_RT, torch.full((2, 3), 0.25).log())
    rows.begin(torch.tensor([3, 3]), uniforms_RT)
    assert [rows.lengths_R.tolist(), rows.steps_R.tolist(), rows.active_R.tolist()] == [[0, 0], [0, 0], [True, True]]


@needs_kernels
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("vocabulary", [200, 256, 1000, 5003])
def test_the_kernels_draw_what_operations_do(vocabulary: int, temperature: float) -> None:
    draw = torch.Generator().manual_seed(0)
    uniforms_RT = torch.rand(60, 3, generator=draw)
    lengths = [1 + number % 7 for number in range(60)]
    ours, expected = begun(lengths, uniforms_RT), begun(lengths, uniforms_RT)
    for _ in range(3):
        logits_RV = (torch.randn(60, vocabulary, generator=draw) * 4).to(DEVICE)
        logits_RV[:, ::3] = -torch.inf
        ends_E = logits_RV[:30].argmax(-1).unique()
        for made, by in ((ours, Answers.draw_by_kernels), (expected, Answers.draw_by_operations)):
            by(made, logits_RV, temperature, ends_E)
    same_R = (ours.tokens_RT == expected.tokens_RT).all(-1)
    assert same_R.sum() >= 59  # where they differ, a boundary was rounded
    assert 0 < ours.active_R.sum() < 60, "some have ended"
    for field in fields(Answers):
        found, wanted = (getattr(made, field.name)[same_R] for made in (ours, expected))
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    assert ours.logprobs_RT.isfinite().all()


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
@pytest.mark.parametrize("off", ["tokens", "ends", "positions"])
def test_the_trial_passes_and_finds_kernels_that_do_something_else(
    off: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from core.generators import kernels

    assert answers._error(DEVICE) < 2e-5
    right = kernels.draw_next

    def wrong(logits_RV: Tensor, temperature: float, ends_E: Tensor, *tensors: Tensor, chunk: int) -> None:
        moved = logits_RV.roll(1, -1) if off == "tokens" else logits_RV
        right(moved, temperature, ends_E[:-1] if off == "ends" else ends_E, *tensors, chunk=chunk)
        if off == "positions":
            tensors[1][3] += 1

    monkeypatch.setattr(kernels, "draw_next", wrong)
    answers._works.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not answers._works(DEVICE)
    answers._works.cache_clear()
    assert caplog.messages == ["tokens are drawn by several passes over the logits, slower: its kernels fail (its values are inf off)"]


def test_without_triton_the_trial_fails_in_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "core.generators.kernels", None)  # as where the import fails
    answers._works.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not answers._works(torch.device("cpu"))
    answers._works.cache_clear()
    (line,) = caplog.messages
    assert line.startswith("tokens are drawn by several passes over the logits, slower: its kernels fail (")


def test_on_a_cpu_the_kernels_are_not_asked_for() -> None:
    assert not answers._fits_kernels(torch.zeros(2, 300))
