"""`python -m tests.faults [kills] [disk] [inputs]`: tries all cases, and writes the page of what held."""

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("kills", "disk", "inputs")

LOADED = ("launch.rm", "launch.ppo", "launch.bon", "launch.bench", "launch.study", "launch.report", "launch.parallel.preload")
"""Imported before the first fork, with what they import on use."""

LOADED_LATE = (
    "launch.jobs.bench",
    "launch.jobs.report",
    "launch.studies.study",
    "ppo.critic_free.train",
    "datasets",
    "plotly.graph_objects",
)


def main() -> int:
    """The exit code: 0 if all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="which parts; all by default")
    parser.add_argument("--only", action="append", default=[], help="cases whose name holds this; may be given several times")
    parser.add_argument("--sample", type=int, default=0, help="so many cases of each part, spread over its groups")
    parser.add_argument("--all", action="store_true", help="all wrong inputs, of which 900 are tried otherwise")
    parser.add_argument("--seed", type=int, default=0, help="chooses where jobs are killed, and the sample")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, and try none")
    parser.add_argument("--results", type=Path, help="keep the results in this file, in place of earlier ones of the same cases")
    parser.add_argument("--page", type=Path, help="write what held to this file")
    chosen = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts this in the background has it ignored, also in the jobs
    # Before anything is imported that reads them.
    os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    # Each job prepares its data itself, in its own folder, whatever others have prepared: operations could not be counted otherwise.
    os.environ["REWARDLOOP_CACHE"] = ".cache"
    import torch

    torch.set_num_threads(1)  # a forked process would wait for threads that it does not have
    for name in (*LOADED, *LOADED_LATE):
        importlib.import_module(name)
    from tests.faults.session import run

    scratch = tempfile.mkdtemp(prefix="faults-")  # no TemporaryDirectory, which forked processes would remove at their end
    os.environ["HOME"] = scratch  # caches of answers and models
    started = time.monotonic()
    try:
        held = run(chosen, Path(scratch), parts=chosen.parts or PARTS)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{time.monotonic() - started:.0f} s")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
