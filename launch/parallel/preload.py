"""What the processes of a study need, imported once before they are forked, so that none of them waits for it."""

from launch.jobs import bon, ppo, rm
from microworld import policy

__all__ = ["bon", "policy", "ppo", "rm"]
