"""The system calls that code in a sandbox is refused, as a program for the kernel's filter (seccomp, classic BPF).

Limits on processes do not hold for root, and some memory counts for no process. So new processes, shared segments and the like are
refused outright, whoever runs the sandbox. Threads are allowed.
"""

import errno
import platform
import struct
from collections.abc import Mapping

_LOAD, _EQUALS, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000
"""From here on the same calls have numbers once more, for 32-bit pointers."""
_CALL, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in the kernel's record of a call."""

_X86_64 = {
    "clone": 56, "clone3": 435, "fork": 57, "vfork": 58, "ptrace": 101, "shmget": 29, "msgget": 68, "semget": 64, "memfd_create": 319,
    "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "keyctl": 250, "add_key": 248, "bpf": 321, "perf_event_open": 298,
    "userfaultfd": 323, "io_uring_setup": 425, "process_vm_readv": 310, "process_vm_writev": 311,
}  # fmt: skip
_AARCH64 = {
    "clone": 220, "clone3": 435, "ptrace": 117, "shmget": 194, "msgget": 186, "semget": 190, "memfd_create": 279, "unshare": 97,
    "setns": 268, "mount": 40, "umount2": 39, "keyctl": 219, "add_key": 217, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
    "io_uring_setup": 425, "process_vm_readv": 270, "process_vm_writev": 271,
}  # fmt: skip
_MACHINES: Mapping[str, tuple[int, Mapping[str, int]]] = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}
"""The kernel's number of an architecture, and those of its calls."""


def filter_program(machine: str = platform.machine()) -> bytes:
    """The filter for a machine. Raises `ValueError` for one whose calls are not known here."""
    if machine not in _MACHINES:
        raise ValueError(f"code runs in a sandbox on x86_64 and aarch64; this machine is a {machine}. Leave out tasks of code.")
    architecture, calls = _MACHINES[machine]
    numbers = [number for name, number in calls.items() if name not in ("clone", "clone3")]
    refused = [(_AT_LEAST, _X32), *((_EQUALS, number) for number in numbers)]
    rules = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUALS, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),  # calls of another architecture have other numbers
        (_LOAD, 0, 0, _CALL),
        (_EQUALS, 0, 1, calls["clone3"]),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),  # its flags lie in memory; the C library then uses clone
        (_EQUALS, 0, 3, calls["clone"]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, len(refused) + 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERRNO | errno.EAGAIN),
        *((test, len(refused) - place, 0, number) for place, (test, number) in enumerate(refused)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    return b"".join(struct.pack("HBBI", *rule) for rule in rules)
