"""Our kernels compile for GPUs that are not there, to machine code that keeps its variables in registers; `make kernels` runs this.

Triton compiles with its own assembler; a driver that only describes the device takes the place of the one that would load and start
the result. Their values are tested in Triton's interpreter (`tests.kernels`), and on a device by the trial before they are used.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import re
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from core.generators.answers import Answers
from core.trees.tiles import lay_tiles
from core.trees.trial import fault_of
from tests.kernels import INTERPRETED

pytestmark = pytest.mark.skipif(
    INTERPRETED or torch.cuda.is_available() or find_spec("triton") is None, reason="needs Triton, and neither its interpreter nor a GPU"
)
SHARED = {80: 166912, 86: 101376, 90: 232448}
"""Bytes of shared memory that a block may have, by compute capability: A100, RTX 30 and A10, H100 (CUDA C++ Programming Guide, table of
technical specifications)."""
SPILLED = {80: 512, 90: 16}
"""Bytes for each thread that may lie in memory instead; the kernels' shapes were chosen on an H100."""
HEADS = [(32, 8, 64), (32, 8, 128), (9, 3, 64), (28, 4, 128), (8, 1, 128)]
"""Of Llama 3.2 1B, Llama 3.1 8B, SmolLM2 135M, Qwen2.5 7B, and of queries that share one key head: query heads, key heads, channels."""
ROWS, LENGTH = 16, 160


class Device:
    """What Triton asks of a driver. `loaded` has the use of registers and memory of every kernel that would have been started."""

    def __init__(self, capability: int, folder: Path) -> None:
        self.capability, self.folder, self.utils = capability, folder, self
        self.loaded: dict[str, str] = {}

    def get_current_device(self) -> int:
        return self.capability  # by which Triton keeps what it has compiled

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED[self.capability]}

    def launcher_cls(self, source: object, metadata: object) -> Callable[..., None]:
        return lambda *arguments: None

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        from triton.backends import nvidia

        file = self.folder / f"{name}.cubin"
        file.write_bytes(binary)
        program = Path(nvidia.__path__[0]) / "bin/cuobjdump"
        shown = subprocess.run([program, "--dump-resource-usage", file], check=True, capture_output=True, text=True).stdout
        self.loaded[name] = shown.strip().rpartition("\n")[2]
        return 1, 1, 0, 0, 1024


@contextmanager
def compiling_for(capability: int, folder: Path) -> Generator[Device]:
    from triton.runtime.driver import driver

    device = Device(capability, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder / "cache"))
        driver.set_active(device)
        yield device
        driver.__init__()


@pytest.fixture(params=SPILLED, scope="module")
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Device]:
    with compiling_for(request.param, tmp_path_factory.mktemp("kernels")) as device:
        yield device


def assert_in_registers(device: Device, *names: str) -> None:
    for name in names:
        found = re.search(r"STACK:(\d+).* LOCAL:(\d+)", device.loaded[name])
        assert found, device.loaded[name]
        assert int(found[1]) + int(found[2]) <= SPILLED[device.capability], f"{name} spills registers: {device.loaded[name]}"


def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape).to(dtype).requires_grad_()


@pytest.mark.parametrize("heads", HEADS)
def test_attention_over_trees(device: Device, heads: tuple[int, int, int]) -> None:
    attend_over_a_tree(*heads)
    assert_in_registers(device, "_forward", "_shares", "_backward_queries", "_backward_keys")


def test_attention_of_one_head_compiles_though_triton_takes_an_argument_of_1_for_a_constant(device: Device) -> None:
    device.loaded.clear()
    attend_over_a_tree(1, 1, 64)
    assert {"_forward", "_shares", "_backward_queries", "_backward_keys"} <= device.loaded.keys()


def attend_over_a_tree(query_heads: int, key_heads: int, channels: int, lengths: tuple[int, ...] = (150, 40, 30)) -> None:
    from core.trees.kernels import attend_by_tile

    query, key, value = (drawn(sum(lengths), number, channels) for number in (query_heads, key_heads, key_heads))
    tiles = lay_tiles(lengths, ((), *[(0,)] * (len(lengths) - 1)), (0,), torch.device("cpu"))
    ends = torch.full((sum(lengths),), sum(lengths))
    attend_by_tile(query, key, value, tiles, ends, channels**-0.5).sum().backward()


@pytest.mark.parametrize("turns", [None, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("heads", HEADS)
def test_attention_of_new_tokens(device: Device, heads: tuple[int, int, int], turns: torch.dtype | None) -> None:
    from core.generators.kernels import attend_rows

    query_heads, key_heads, channels = heads
    query, key, value = (drawn(number, ROWS, channels).detach() for number in (query_heads, key_heads, key_heads))
    keys, values = torch.zeros(2, ROWS, key_heads, LENGTH, channels, dtype=torch.bfloat16)
    angles = None if turns is None else (torch.randn(ROWS, channels, dtype=turns), torch.randn(ROWS, channels, dtype=turns))
    attend_rows(query, key, value, keys, values, torch.zeros(ROWS, dtype=torch.long), channels**-0.5, angles)
    assert_in_registers(device, "_attend")


@pytest.mark.parametrize("ends", [1, 3])
@pytest.mark.parametrize("vocabulary", [600, 49152, 151936])
def test_drawing_a_token(device: Device, vocabulary: int, ends: int) -> None:
    rows = Answers.empty(ROWS, LENGTH, torch.device("cpu"))
    rows.draw_by_kernels(torch.randn(ROWS, vocabulary), 0.7, torch.arange(ends))
    assert_in_registers(device, "_sum_chunks", "_draw")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("heads", HEADS)
def test_rotations(device: Device, heads: tuple[int, int, int], dtype: torch.dtype) -> None:
    from core.models.fused.kernels import rotated, rotated_pair

    query_heads, key_heads, channels = heads
    query, key = (drawn(1, ROWS, number, channels, dtype=dtype).transpose(1, 2) for number in (query_heads, key_heads))
    table = torch.randn(1, ROWS, channels)
    rotated(query, table, table).sum().backward()
    rotated_pair(query.detach(), key.detach(), table, table)
    assert_in_registers(device, "_rotary", "_rotary_pair")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [576, 2048, 4096])
def test_norms_and_gates(device: Device, size: int, dtype: torch.dtype) -> None:
    from core.models.fused.kernels import added_and_normed, gated_silu, gated_silu_by_row, normed

    hidden, weight = drawn(ROWS, size, dtype=dtype), drawn(size, dtype=dtype)
    normed(hidden, weight, 1e-5, dtype).sum().backward()
    whole, out = added_and_normed(hidden, drawn(ROWS, size), weight, 1e-5, torch.bfloat16)
    (whole.sum() + out.sum()).backward()
    gated_silu(hidden, drawn(ROWS, size, dtype=dtype)).sum().backward()
    gated_silu_by_row(*drawn(ROWS, 2 * size, dtype=dtype).detach().chunk(2, -1))
    assert_in_registers(device, "_norm", "_norm_backward", "_forward", "_backward", "_forward_by_row")


def test_another_number_of_tokens_compiles_nothing_anew(device: Device) -> None:
    from core.models.fused.kernels import added_and_normed, rotated, rotated_pair

    def work(length: int) -> None:
        query, key = (drawn(1, length, number, 64).transpose(1, 2) for number in (32, 8))
        table, hidden = torch.randn(1, length, 64), drawn(length, 2048)
        rotated(query, table, table).sum().backward()
        rotated_pair(query.detach(), key.detach(), table, table)
        whole, out = added_and_normed(hidden, drawn(length, 2048), drawn(2048), 1e-5, torch.bfloat16)
        (whole.sum() + out.sum()).backward()
        attend_over_a_tree(9, 3, 64, lengths=(length, 16))

    work(32)
    device.loaded.clear()
    for length in (33, 48, 1):
        work(length)
        assert not device.loaded, length


def test_what_a_smaller_device_lacks_room_for_is_a_fault_that_the_trial_takes(tmp_path: Path) -> None:
    with compiling_for(86, tmp_path) as device:
        why = fault_of(lambda: (test_attention_over_trees(device, (32, 8, 128)), 0.0)[1], tolerance=0.03)
    assert why is not None
    assert "out of resource: shared memory" in why
