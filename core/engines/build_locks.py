"""Locks that torch leaves beside compiled extensions when it is killed: every later start would wait for them for ever, in silence.

DeepSpeed compiles on first use, in a folder that all processes of a user share, under a file that says "wait" and not for whom.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from torch.utils import cpp_extension

STALE_S = 300.0
"""Seconds after which a lock is taken for one of a process that is gone: an extension compiles in one to two minutes."""


def await_builds(say: Callable[[str], None], *, stale_s: float = STALE_S, poll_s: float = 1.0) -> None:
    """Waits for extensions that others compile now, and removes locks older than `stale_s`, saying so."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root())
    for lock in sorted({*root.glob("*/lock"), *root.glob("*/*/lock")}):
        said = False
        while (age := _age(lock)) is not None:
            if age > stale_s:
                lock.unlink(missing_ok=True)
                say(f"removed {lock}, which a process that was killed while it compiled has left {age / 60:.0f} minutes ago")
            else:
                if not said:
                    say(f"waiting for {lock.parent.name}, which another process compiles")
                    said = True
                time.sleep(poll_s)


def _age(lock: Path) -> float | None:
    try:
        return time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return None
