"""Weight decay reaches matrices alone, and the learning rate follows its schedule."""

import pytest
import torch
from torch import nn

from core.config import OptimConfig
from core.engines.optim import adamw, schedule


def test_weight_decay_reaches_matrices_alone_and_each_part_keeps_its_groups_name_and_rate() -> None:
    matrix, bias, norm, cube = (nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (2,), (3,), (2, 2, 2)))
    groups = [{"name": "actor", "params": [matrix, bias, cube], "lr": 0.1}, {"name": "critic", "params": [norm], "lr": 0.2}]
    parts = adamw(groups, OptimConfig(weight_decay=0.5, adam_eps=1e-4)).param_groups
    assert [(part["name"], part["lr"], part["weight_decay"], [id(p) for p in part["params"]]) for part in parts] == [
        ("actor", 0.1, 0.5, [id(matrix), id(cube)]),
        ("actor", 0.1, 0.0, [id(bias)]),
        ("critic", 0.2, 0.0, [id(norm)]),  # no part without parameters
    ]
    assert {part["eps"] for part in parts} == {1e-4}


def test_the_learning_rate_rises_then_falls_to_zero_behind_the_last_step() -> None:
    linear = OptimConfig(warmup_ratio=0.2)
    # 10 steps, 2 of them warm-up: 0, 1/2, then 1 falls by an eighth a step; what would come next is 0.
    assert [schedule(linear, step, 10) for step in range(1, 12)] == pytest.approx(
        [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]
    )
    cosine = OptimConfig(schedule="cosine")  # type: ignore[arg-type]
    # Half a cosine over 4 steps: (1 + cos(k pi / 4)) / 2.
    assert [schedule(cosine, step, 4) for step in range(1, 6)] == pytest.approx([1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)
    constant = OptimConfig(schedule="constant", warmup_ratio=0.5)  # type: ignore[arg-type]
    assert [schedule(constant, step, 4) for step in range(1, 6)] == pytest.approx([0, 0.5, 1, 1, 1])
