"""Drawing by chunks draws what one sum over the vocabulary does. How tokens are drawn at all: test_local.py."""

import torch

from core.generators.drawing import drawn_by_chunk, sample_tokens


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
