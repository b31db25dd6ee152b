"""RewardBench 2 and 1: rows, exact scores, saved scores, comparison."""
