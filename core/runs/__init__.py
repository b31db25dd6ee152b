"""Runs on disk: records, identities, checkpoints and metrics."""
