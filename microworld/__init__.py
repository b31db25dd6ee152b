"""The embedded default: a small world with verifiable skills, generated from a seed.

It provides a tokenizer, a corpus, two policies of different lineage, preference mixes, a benchmark in RewardBench 2's
schema, a pairwise one in RewardBench 1's, and downstream tasks. No two of them share a prompt.
"""
