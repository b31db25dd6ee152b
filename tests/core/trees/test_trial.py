"""A kernel is tried before it is relied on."""

import subprocess
import sys

import pytest
import torch

from core.trees.trial import fault_of


def test_a_kernel_whose_values_are_near_has_no_fault() -> None:
    assert fault_of(lambda: 0.03, tolerance=0.03) is None


@pytest.mark.parametrize(("error", "fault"), [(0.031, "its values are 0.031 off"), (float("nan"), "its values are nan off")])
def test_values_that_are_off_are_a_fault(error: float, fault: str) -> None:
    assert fault_of(lambda: error, tolerance=0.03) == fault


def test_what_a_kernel_raises_is_a_fault_in_one_line_and_a_lack_of_memory_is_raised() -> None:
    def refuse() -> float:
        raise RuntimeError("no image for this device\nand much more")

    def run_out() -> float:
        raise torch.OutOfMemoryError("full")

    def lack_headers() -> float:
        subprocess.check_call([sys.executable, "-c", "raise SystemExit(1)"])  # as Triton calls the C compiler
        return 0.0

    assert fault_of(refuse, tolerance=1.0) == "no image for this device"
    assert "non-zero exit status 1" in (fault_of(lack_headers, tolerance=1.0) or "")
    with pytest.raises(torch.OutOfMemoryError):
        fault_of(run_out, tolerance=1.0)


def test_gradients_are_tried_even_where_who_asks_first_forbids_them() -> None:
    def error() -> float:
        with torch.enable_grad():
            value = torch.ones((), requires_grad=True)
            (gradient,) = torch.autograd.grad(3 * value, value)
        return abs(gradient.item() - 3)

    with torch.inference_mode():
        assert fault_of(error, tolerance=0.0) is None
