"""What scores of reward models say: correlations and head-to-heads with intervals, seed noise, a pick with its confidence."""
