"""A device's peak is found by the most particular part of its name."""

import pytest
import torch

from core.process.hardware import peak_flops


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),  # "H100" is in it too, and is another device
        ("NVIDIA L40S", 362),  # "L4" is in it too
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A10G", 70),
        ("NVIDIA A10", 125),
        ("NVIDIA GeForce RTX 4090", 165),
    ],
)
def test_the_longest_name_that_fits_counts(monkeypatch: pytest.MonkeyPatch, name: str, tflops: float) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == tflops * 1e12


def test_an_unknown_gpu_and_a_cpu_have_no_known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Something Else 9000")
    assert peak_flops(torch.device("cuda")) is None
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Some XL4 or L400")
    assert peak_flops(torch.device("cuda")) is None, "parts of words are other devices"
    assert peak_flops(torch.device("cpu")) is None
