"""The optimiser and its learning rate, which all engines share."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from core.config import OptimConfig


def adamw(groups: Sequence[Mapping[str, Any]], optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over `groups`; weight decay reaches matrices alone, not biases and norms."""
    parted: list[dict[str, Any]] = []
    for group in groups:
        # By the number of dimensions, which sharding keeps.
        for matrices in (True, False):
            chosen = [parameter for parameter in group["params"] if (parameter.ndim >= 2) == matrices]
            if chosen:
                parted.append({**group, "params": chosen, "weight_decay": optim.weight_decay if matrices else 0.0})
    return torch.optim.AdamW(parted, eps=optim.adam_eps, fused=True)


def schedule(optim: OptimConfig, step: int, num_steps: int) -> float:
    """The share of the full learning rate that update `step` (from 1) uses; behind the last one, at `num_steps + 1`, it is 0.

    It rises over the first `warmup_ratio` of all steps, then falls to zero by a line or half a cosine, or stays.
    """
    done, warmup = step - 1, round(optim.warmup_ratio * num_steps)
    if done < warmup:
        return done / warmup
    left = 1 - (done - warmup) / max(1, num_steps - warmup)
    if optim.schedule == "linear":
        return left
    if optim.schedule == "cosine":
        return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (1 - left), dtype=torch.float64)).item())
    return 1.0
