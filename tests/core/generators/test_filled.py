"""Attention of new tokens to the filled part of their rows: where its kernel is asked for, and on a GPU its values."""

# pyright: reportPrivateUsage=false

import pytest
import torch

from core.generators import filled
from tests.kernels import INTERPRETED


def heads(num_rows: int, device: str = "cpu") -> list[torch.Tensor]:
    return [torch.zeros(1, number, num_rows, 64, dtype=torch.bfloat16, device=device) for number in (4, 2, 2)]


def test_on_a_cpu_the_kernel_is_not_asked_for() -> None:
    assert not filled.fits_rows(*heads(64))


@pytest.mark.gpu
def test_there_it_is_taken_for_many_rows_only() -> None:
    assert filled.fits_rows(*heads(64, "cuda"))
    assert not filled.fits_rows(*heads(4, "cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize(("num_heads", "num_key_heads", "num_channels"), [(32, 8, 64), (32, 8, 128), (12, 12, 64), (9, 3, 64)])
def test_there_its_values_are_those_of_fp32_over_all_room_masked(num_heads: int, num_key_heads: int, num_channels: int) -> None:
    error = filled._error(torch.device("cuda"), torch.bfloat16, num_heads, num_key_heads, num_channels)
    assert error < 0.01


@pytest.mark.skipif(not INTERPRETED, reason="needs Triton's interpreter")
@pytest.mark.parametrize(("num_heads", "num_key_heads", "num_channels"), [(4, 2, 64), (9, 3, 64), (8, 1, 128), (1, 1, 16)])
def test_the_values_of_the_interpreted_kernel_are_those_of_fp32_over_all_room_masked(
    num_heads: int, num_key_heads: int, num_channels: int
) -> None:
    # In fp16: the interpreter multiplies no matrices in bf16.
    assert filled._error(torch.device("cpu"), torch.float16, num_heads, num_key_heads, num_channels) < 0.001
