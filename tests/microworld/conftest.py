"""A small world, made once per run."""

from pathlib import Path

import pytest

from microworld.config import WorldConfig
from microworld.world import build_world

SMALL = WorldConfig(seed=3, corpus_size=4_000, pairs=400, benchmark_rows=24, task_rows=24, vocab_size=320)


@pytest.fixture(scope="session")
def world_config() -> WorldConfig:
    return SMALL


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world of `world_config`; read only."""
    return build_world(SMALL, tmp_path_factory.mktemp("worlds") / "small")
