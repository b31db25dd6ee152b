"""The optimiser and its learning-rate schedule, shared by all engines."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from core.config import OptimConfig, Schedule


def adamw(groups: Sequence[Mapping[str, Any]], optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over `groups`; with weight decay on matrices only, not on biases and norms."""
    split: list[dict[str, Any]] = []
    for group in groups:
        # Told apart by their number of dimensions, which sharding preserves.
        for matrices in (True, False):
            chosen = [parameter for parameter in group["params"] if (parameter.ndim >= 2) == matrices]
            if chosen:
                split.append({**group, "params": chosen, "weight_decay": optim.weight_decay if matrices else 0.0})
    return torch.optim.AdamW(split, eps=optim.adam_eps, fused=True)


def schedule(optim: OptimConfig, step: int, num_steps: int) -> float:
    """The factor on the learning rate for update `step`, counted from 1.

    It rises linearly over the first `warmup_ratio` of all steps, then decays linearly or as half a cosine, reaching zero at
    `num_steps + 1`, or stays constant.
    """
    done, warmup = step - 1, round(optim.warmup_ratio * num_steps)
    if done < warmup:
        return done / warmup
    left = 1 - (done - warmup) / max(1, num_steps - warmup)
    if optim.schedule == Schedule.linear:
        return left
    if optim.schedule == Schedule.cosine:
        return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (1 - left), dtype=torch.float64)).item())
    return 1.0
