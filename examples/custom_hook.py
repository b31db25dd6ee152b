"""A hook of your own: does the reward model prefer long answers?

    python examples/custom_hook.py REWARD_MODEL_FOLDER rows.jsonl

measures a saved reward model once. To measure at every checkpoint, hand the hook to a trainer: examples/trl_callback.py shows how.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rewardloop import BenchmarkRow, CheckpointSaved, Hook, JsonlTracker, RewardModelScorer, load_rewardbench2, run_hooks, score_rows


class LengthBiasHook(Hook):
    """Spearman's rank correlation of reward and length over incorrect answers, where length earns nothing: 0 is unbiased."""

    def __init__(self, rows: Sequence[BenchmarkRow]) -> None:
        self.rows = rows

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        scored = score_rows(self.rows, RewardModelScorer(event.model, event.tokenizer)).rows
        rewards = [score for row in scored for score in row.scores[row.num_correct :]]
        lengths = [len(text) for row in self.rows for text in row.completions[row.num_correct :]]
        return {"length_bias/spearman": float(np.corrcoef(rankdata(rewards), rankdata(lengths))[0, 1])}


def main(model_folder: str, rows: str) -> None:
    event = CheckpointSaved(
        step=0,
        num_steps=0,
        path=Path(model_folder),
        run_dir=Path("runs/length-bias"),
        model=AutoModelForSequenceClassification.from_pretrained(model_folder),
        tokenizer=AutoTokenizer.from_pretrained(model_folder),
    )
    print(run_hooks([LengthBiasHook(load_rewardbench2(rows))], event, JsonlTracker(event.run_dir / "metrics.jsonl")))


if __name__ == "__main__":
    main(*sys.argv[1:])
