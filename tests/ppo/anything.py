"""Runs of every algorithm by one call."""

from pathlib import Path
from typing import Any

from ppo.config import Algo
from ppo.run import PPOResult
from tests.ppo.critic_free import runs as critic_free
from tests.ppo.runs import config_of, run

RUN = ("prompts", "tracker", "scorer")


def run_any(folder: Path, algo: Algo, run_dir: Path, **options: Any) -> PPOResult:
    """A run by `algo`; `prompts`, `tracker` and `scorer` among the options are the run's, all others its configuration's."""
    parts = {name: options.pop(name) for name in RUN if name in options}
    if algo == Algo.ppo:
        return run(config_of(folder, **options), run_dir, **parts)
    return critic_free.run(critic_free.config_of(folder, algo, **options), run_dir, **parts)
