"""What is compared with TRL is the same training, and the peer is not made slower than it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.rm import plans
from rmtrain.tokens import TokenPair


def pair(prompt: int, chosen: int, rejected: int) -> TokenPair:
    sides = [[1] * prompt + [first] * length for first, length in ((2, chosen), (3, rejected))]
    return TokenPair(chosen=np.array(sides[0], dtype=np.int32), rejected=np.array(sides[1], dtype=np.int32), margin=0.0)


def test_work_counts_prompts_once_and_pads_to_the_longest_text() -> None:
    done = plans.work([pair(2, 1, 2), pair(1, 1, 1)], [[0, 1]])
    # Texts of 3, 4, 2 and 2 tokens. Once: 2 + 1 + 2 and 1 + 1 + 1. Padded: 4 texts of 4.
    assert (done.tokens, done.unique, done.padded) == (11, 8, 16)
    # Causal pairs 3*4/2 + 4*5/2 - 2*3/2 = 13 and 3 + 3 - 1 = 5; padded 4 * 10.
    assert (done.seen, done.padded_seen) == (18, 40)


def test_a_sample_is_made_of_batches_that_were_grouped_over_all_pairs() -> None:
    pairs = [pair(1, length % 97 + 1, 1) for length in range(1000)]
    drawn = plans.sample(pairs, 5, 0)
    assert len(drawn.pairs) == 6 * 8
    assert sorted(i for batch in drawn.shuffled for i in batch) == sorted(i for batch in drawn.grouped for i in batch) == list(range(40))
    # Grouped over 1,000 pairs, whose lengths spread over 97 tokens, a batch of 8 spreads over few.
    spreads = [np.ptp([plans.longest(drawn.pairs[i]) for i in batch]) for batch in drawn.grouped]
    assert max(spreads) <= 10


def test_trl_trained_on_the_same_batches_has_the_same_losses(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.rm.speed", "--curves", "--only", "microworld", "--steps", "4", "--json", str(out)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads(out.read_text())["rows"]
    assert row["steps"] == len(row["ours"]["losses"]) == 4
    assert row["difference"] < 1e-5
    assert row["ours"]["losses"][0] != row["ours"]["losses"][-1]
