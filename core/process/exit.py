"""The end of a process that is one of several."""

import atexit
import os
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def exit_without_teardown() -> Generator[None]:
    """Ends a process that has joined a group when the block is left: with its exit code, before the interpreter is taken down.

    Gloo's threads live as long as anything holds the group, which the modules of FSDP2 and DeepSpeed do,
    `destroy_process_group` or not; one of them that lets go of its last tensor while the interpreter is taken down is ended
    inside a destructor, and the process aborts after all its work is done ("terminate called without an active exception").
    What `atexit` knows still runs and output is written out, as when multiprocessing ends a child. A process that is alone
    goes on.
    """
    code = 0
    try:
        yield
    except BaseException as error:
        if not _has_joined():
            raise
        code = _code_of(error)
    if _has_joined():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _has_joined() -> bool:
    distributed = sys.modules.get("torch.distributed")  # whoever has joined a group has imported it
    return distributed is not None and distributed.is_initialized()


def _code_of(error: BaseException) -> int:
    """The exit code that Python gives to an exception that nobody caught, after it has printed the same."""
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1
