"""Exits of a process: one that belongs to a process group, and one whose reader has gone."""

import atexit
import os
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager


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
    """Ends the program without a word if nobody reads its output any more, as where it is piped into `head`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Otherwise the interpreter would try to flush what is left at its end, and print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(CLOSED_PIPE) from None
    except SystemExit as ended:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(ended.code or CLOSED_PIPE) from None
        raise


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
