"""Imported once before a study's processes part, so that none of them waits for it."""

import launch.jobs.bon
import launch.jobs.ppo
import launch.jobs.rm
import microworld.policy

__all__ = ["launch", "microworld"]
