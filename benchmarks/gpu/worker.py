"""The process in which the rows of `benchmarks.gpu` run, one after another, up to one that needs a process of its own or leaves memory
of the device behind. It reads their names, ROW,ROW, from its standard input once it has imported what it needs.

python -m benchmarks.gpu.worker LOG [--tiny]
"""

import gc
import json
import logging
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch
import transformers
from transformers.utils import logging as transformers_logging

from benchmarks.gpu.rows import ROWS, Row
from benchmarks.gpu.subjects import FULL, TINY, Scale
from core.process.memory import keep_freed_memory

LEFT = 2**30
"""Bytes of the device that a row may leave behind; after one that leaves more the next begins in a new process."""


def main() -> None:
    log, *rest = sys.argv[1:]
    scale = replace(TINY if "--tiny" in rest else FULL, folder=Path(log).parent / "models")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    keep_freed_memory()
    signal.signal(signal.SIGALRM, out_of_time)
    for row in ROWS:
        with suppress(ImportError):  # told as that row's failure when its turn comes
            row.load()
    names = sys.stdin.readline().strip()
    if not names:
        return
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"[{card}, torch {torch.__version__}, transformers {transformers.__version__}]", flush=True)
    chosen = [row for row in ROWS if row.name in names.split(",")]
    for number, row in enumerate(chosen):
        if row.alone and number:
            return
        in_time = carry_out(row, scale, Path(log))
        # What a row that was interrupted has left undone, or has started, is not known.
        if row.alone or not in_time or (torch.cuda.is_available() and torch.cuda.memory_allocated() > LEFT):
            return


def carry_out(row: Row, scale: Scale, log: Path) -> bool:
    """One row: its findings, printed and written as they come, or why it failed. Whether it ended by itself."""
    started, in_time = time.monotonic(), True

    def write(**entry: object) -> None:
        with log.open("a") as file:
            file.write(json.dumps({"row": row.name, **entry}) + "\n")

    write(event="begin")
    signal.alarm(row.seconds(tiny=scale.tiny))
    try:
        for finding in row.load()(scale):
            print(f"{row.name}: " + ", ".join(f"{name} {shown(value)}" for name, value in finding.items()), flush=True)
            write(event="finding", **finding)
        write(event="end", seconds=time.monotonic() - started)
        print(f"{row.name}: ({time.monotonic() - started:.1f} s)", flush=True)
    except Exception as error:  # of any kind: the other rows are to be told all the same
        in_time = not isinstance(error, TimeIsOverError)
        lines = str(error).strip().splitlines() or [""]
        why = f"{type(error).__name__}: {lines[0]}"
        write(event="fail", why=why)
        print(f"{row.name}: FAILED after {time.monotonic() - started:.1f} s ({why})", flush=True)
        logging.exception("%s failed", row.name)
    finally:
        signal.alarm(0)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return in_time


class TimeIsOverError(Exception):
    """Ends a row. Not a TimeoutError, an error of the system: those a kernel may raise where it is tried, which is to go on without it."""


def out_of_time(number: int, frame: FrameType | None) -> None:
    raise TimeIsOverError("the row's time is over")


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
