"""What a device could do at best."""

import re

import torch

DENSE_BF16_TFLOPS = {
    "A100": 312.0,
    "A10": 125.0,
    "A10G": 70.0,
    "A6000": 155.0,
    "L40": 181.0,
    "L40S": 362.0,
    "L4": 121.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "GH200": 989.0,
    "H800": 989.0,
    "B200": 2250.0,
    "RTX 4090": 165.0,
}
"""Matrix products in bf16 without sparsity, from the makers' data sheets, by words of the device's name; the longest match counts."""


def peak_flops(device: torch.device) -> float | None:
    """Floating-point operations per second of a GPU's bf16 matrix products by its data sheet; None for what is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    found = [words for words in DENSE_BF16_TFLOPS if re.search(rf"\b{re.escape(words)}\b", name)]
    return DENSE_BF16_TFLOPS[max(found, key=len)] * 1e12 if found else None
