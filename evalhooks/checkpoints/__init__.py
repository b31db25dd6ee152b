"""What is measured at a checkpoint: benchmarks, best-of-N and held-out pairs of a reward model, downstream tasks of a policy."""
