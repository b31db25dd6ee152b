"""How fast PPO is, and what it learns."""
