"""The end of a process that is one of several."""

import atexit
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Ends the process when the block is left, with the exit code that it would have had, before the interpreter is taken down.

    For the processes of a group over gloo. Its threads live as long as anything holds the group, which the modules of FSDP2
    and DeepSpeed do, `destroy_process_group` or not; one of them that lets go of its last tensor while the interpreter is
    taken down is ended inside a destructor, and the process aborts after all its work is done ("terminate called without an
    active exception"). What `atexit` knows still runs and output is written out, as when multiprocessing ends a child.
    """
    code = 0
    try:
        yield
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
