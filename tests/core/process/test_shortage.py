"""A full disk and exhausted memory are recognised however a library reports them, and told with what to do."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError

from core.disk import atomic_folder, write_json, writing
from core.process.shortage import killed, shortage

FULL = Path("/dev/full")
"""A device on which every write fails for want of space. Written to through links: some libraries replace what they write to."""


def raised(work: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as error:  # noqa: PT011
        work()
    return error.value


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a file": lambda file: file.write_text("x" * 10**5),
    "torch": lambda file: torch.save({"weight": torch.zeros(10**5)}, file),
    "parquet": lambda file: pq.write_table(pa.table({"a": list(range(10**5))}), file),
}


@pytest.mark.skipif(not FULL.is_char_device(), reason="Linux has a device that is always full")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_told_with_its_folder_what_was_written_and_what_to_free(tmp_path: Path, writer: str) -> None:
    def save() -> None:
        with atomic_folder(tmp_path / "checkpoints" / "step-000004") as folder:
            (folder / "state.pt").symlink_to(FULL)
            WRITERS[writer](folder / "state.pt")

    said = shortage(raised(save), tmp_path)
    assert said is not None
    assert said.startswith(f"the disk of {tmp_path} is full while writing {tmp_path}/checkpoints/step-000004, or a")
    assert " GB are free now). Free space there, above all checkpoints of runs" in said
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("CheckpointException ranks:dict_keys([0]) ... OSError: [Errno 28] No space left on device"),
    ],
)
def test_a_full_disk_is_recognised_by_number_and_by_words(error: Exception, tmp_path: Path) -> None:
    assert (shortage(error, tmp_path / "not" / "there") or "").startswith(f"the disk of {tmp_path}/not/there is full, or ")
    wrapped = ValueError("saving failed")
    wrapped.__cause__ = error
    assert "is full" in (shortage(wrapped, tmp_path) or "")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_exhausted_memory_is_told_with_what_needs_less(error: Exception, tmp_path: Path) -> None:
    said = shortage(error, tmp_path, smaller="lower batch_tokens") or ""
    assert said.startswith(f"memory ran out ({type(error).__name__}: ")
    assert "To need less, lower batch_tokens; to free some, end other processes" in said
    assert "\n" not in said


def test_memory_that_ran_out_while_writing_is_told_so(tmp_path: Path) -> None:
    def save() -> None:
        with writing(tmp_path / "pools"):
            raise MemoryError

    assert (shortage(raised(save), tmp_path) or "").startswith(f"memory ran out while writing {tmp_path}/pools (MemoryError: no details).")


def test_other_errors_are_none_of_both(tmp_path: Path) -> None:
    assert shortage(ValueError("the prompt is out of memory bounds"), tmp_path) is None
    assert shortage(FileNotFoundError(errno.ENOENT, "No such file"), tmp_path) is None
    assert shortage(raised(lambda: write_json(tmp_path / "a.json", {"x": object()})), tmp_path) is None


def test_a_process_that_the_system_ended_is_said_to_lack_memory() -> None:
    assert killed(-signal.SIGKILL, "lower it") == "killed by SIGKILL, as the system does when memory runs out: lower it"
    assert killed(-signal.SIGSEGV, "lower it") == "killed by SIGSEGV"
