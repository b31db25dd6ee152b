"""What every trainer shares: records, models, chat rendering, batching, scoring, generation, checkpoints and tracking."""
