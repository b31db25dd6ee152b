"""Models: where they lie, how they are loaded, adapted, saved, and read for rewards and log-probabilities."""
