"""Best-of-N: pools of completions made once, and what a reward picks from them."""
