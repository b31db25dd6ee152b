"""Best-of-N: pools of completions sampled once, and what a reward picks from them."""
