"""What the card itself gives: a large matrix product, and a large copy."""

from collections.abc import Iterator

import torch

from benchmarks.gpu.findings import Finding
from benchmarks.gpu.subjects import Scale, median_seconds
from benchmarks.machine import device


def ceilings(scale: Scale) -> Iterator[Finding]:
    size = 64 if scale.tiny else 8192
    left, right = (torch.randn(size, size, device=device(), dtype=torch.bfloat16) for _ in range(2))
    yield {"what": f"matrix product {size}", "TFLOP/s": 2 * size**3 / median_seconds(lambda: left @ right, 10) / 1e12}
    yield {"what": "copy, read and written", "TB/s": copy_rate(scale) / 1e12}


def copy_rate(scale: Scale) -> float:
    """Bytes read and written per second."""
    source = torch.randn(1000 if scale.tiny else 10**9, device=device())
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / median_seconds(lambda: target.copy_(source), 10)
