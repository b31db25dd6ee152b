"""Imported first by the process that jobs are forked from: Linux then ends it with the study, at once.

By itself that process notices the end of a killed study only after it has imported what the jobs need, which takes long on a busy
machine. The jobs have their own way (see `launch.parallel.scheduler`): a forked process does not inherit this.
"""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From Linux's `sys/prctl.h`: the signal that a process gets when its parent ends."""

if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
