"""Exits of a process: one that belongs to a process group, and one whose reader has gone."""

import atexit
import io
import os
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@contextmanager
def exit_without_teardown() -> Generator[None]:
    """Exits at the end of the block, with the right exit code but without interpreter teardown, if the process has joined a group.

    Gloo's threads live as long as anything holds the group, and the modules of FSDP2 and DeepSpeed do, even after
    `destroy_process_group`. A thread that releases its last tensor during teardown is ended inside a destructor, and the
    process aborts after all its work is done ("terminate called without an active exception"). `atexit` functions still run
    and output is flushed, as when multiprocessing ends a child. A process on its own continues.
    """
    code = 0
    try:
        yield
    except BaseException as error:  # of any kind: it becomes the exit code
        if not _has_joined():
            raise
        code = _code_of(error)
    if _has_joined():
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]  # there is no public one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


CLOSED_PIPE = 141
"""What shells report for a program that wrote to a closed pipe (128 + SIGPIPE)."""


@contextmanager
def ending_with_a_closed_pipe() -> Generator[None]:
    """Lets the program work on without a word if nobody reads its output any more, as where it is piped into `head`.

    What is printed then goes nowhere: no code between here and `print` meets an `OSError`, which it would take for one of a file, and a
    run is not lost over a line. A program that would have ended well ends with `CLOSED_PIPE`.
    """
    own = sys.stdout
    if own is not sys.__stdout__ or not isinstance(own, io.TextIOWrapper):  # an outer context has it, or somebody captures the output
        yield
        return
    own.flush()
    pipe = _Pipe(own.fileno(), "wb", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(pipe),
        encoding=own.encoding,
        errors=own.errors,
        line_buffering=own.line_buffering,
        write_through=own.write_through,
    )
    try:
        yield
    except SystemExit as ended:
        sys.stdout.flush()
        if pipe.is_closed and not ended.code:
            raise SystemExit(CLOSED_PIPE) from None
        raise
    else:
        sys.stdout.flush()
        if pipe.is_closed:
            raise SystemExit(CLOSED_PIPE)
    finally:
        sys.stdout.flush()
        sys.stdout = own


class _Pipe(io.FileIO):
    """A file that is exchanged for one that takes everything when its reader has gone."""

    is_closed = False

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            self.is_closed = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(data)


def _has_joined() -> bool:
    distributed = sys.modules.get("torch.distributed")  # imported by whoever has joined a group
    return distributed is not None and distributed.is_initialized()


def _code_of(error: BaseException) -> int:
    """The exit code that Python gives an uncaught exception, after printing what Python would print."""
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1
