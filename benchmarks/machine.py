"""Peak rates of this machine, and where a workload spends its time and memory.

This module does not import rewardloop, because the peers' environments import it too.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

KINDS = {
    "matrix products": ("aten::addmm", "aten::mm", "aten::linear", "aten::bmm"),
    "attention": ("aten::_scaled_dot_product", "aten::_flash_attention", "aten::scaled_dot_product"),
    "copies": ("aten::cat", "aten::copy_", "aten::clone", "aten::contiguous", "aten::split", "aten::index"),
    "element by element": ("aten::mul", "aten::add", "aten::silu", "aten::pow", "aten::mean", "aten::rsqrt", "aten::neg", "aten::sum"),
}


def device() -> torch.device:
    """The GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Waits for the GPU; a CPU has nothing pending."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def now() -> float:
    """A clock in seconds, read once the GPU is idle."""
    synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = now()
    work()
    return now() - started


def used_mib() -> float:
    """Memory in use, in MiB: allocated on the GPU if there is one, otherwise resident. NaN if there is no /proc."""
    return torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_available() else _status_mib("VmRSS")


def peak_mib() -> float:
    """Peak memory since `reset_peak`, in MiB, counted as in `used_mib`."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else _status_mib("VmHWM")


def reset_peak() -> None:
    """Resets the peak, so that memory used for loading does not hide what training needs."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def _status_mib(key: str) -> float:
    """One value from Linux's status of this process."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), float("nan"))


def matmul_peak(dtype: torch.dtype, size: int = 2048) -> float:
    """The highest rate of a square matrix product, in floating-point operations per second; the best of ten."""
    left, right = (torch.randn(size, size, device=device()).to(dtype) for _ in range(2))
    seconds(lambda: left @ right)
    return 2 * size**3 / min(seconds(lambda: left @ right) for _ in range(10))


def forward_flops(model: PreTrainedModel, num_tokens: int, num_seen: int) -> float:
    """Floating-point operations of a forward pass over `num_tokens` tokens whose queries attend to `num_seen` keys in total.

    2 per linear-layer weight and token, and 4 per layer, attention channel and query-key pair (Kaplan et al. 2020, table 1,
    counted exactly).
    """
    config = model.config.get_text_config()
    weights = sum(module.weight.numel() for module in model.base_model.modules() if isinstance(module, torch.nn.Linear))
    channels = config.num_attention_heads * (config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads)
    return 2.0 * weights * num_tokens + 4.0 * config.num_hidden_layers * channels * num_seen


def shares(work: Callable[[], object]) -> dict[str, float]:
    """The share of operator time by kind of operation; unlisted operations are `other`."""
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]) as profiler:
        work()
    found = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profiler.key_averages():
        spent = event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "other")
        found[kind] += spent
    total = sum(found.values())
    return {kind: spent / total for kind, spent in found.items()}
