"""Both sides of the best-of-N benchmark do the same work."""

from pathlib import Path

import pytest
from transformers import LlamaForSequenceClassification

from benchmarks.bon_rerank import generate, pool_of, rerank
from core.config import ModelConfig


def test_a_pool_shares_its_prompt_and_has_completions_of_about_the_length() -> None:
    groups = pool_of(16, 4, 8, 3)
    assert [len(group) for group in groups] == [4, 4, 4]
    assert all(row[:16] == group[0][:16] and 4 <= len(row) - 16 <= 12 for group in groups for row in group)


def test_both_sides_give_the_same_scores(reward_model: LlamaForSequenceClassification, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(*shape: int) -> list[list[list[int]]]:
        return [[[token % 250 for token in row] for row in group] for group in pool_of(*shape)]

    monkeypatch.setattr("benchmarks.bon_rerank.pool_of", small)
    row = rerank(reward_model, 16, 4, 8, num_prompts=3, rounds=1)
    difference, counted = row["difference"], row["counted_on_tokens"]
    assert isinstance(difference, float)
    assert difference < 1e-4
    assert isinstance(counted, float)
    assert 1.5 < counted < 2.5  # 4 x (16 + 8) tokens against 16 + 4 x 8


def test_both_sides_draw_as_many_tokens(policy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.bon_rerank.pool_of", lambda *shape: [[[5] * 20]])
    assert generate(ModelConfig(path=str(policy_folder)), 16, 4, 8, rounds=1)["difference"] == 0.0
