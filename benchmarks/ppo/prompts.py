"""How PPO starts with very many prompts: seconds to the first batch and peak memory.

    python -m benchmarks.ppo.prompts [--prompts 270000] [--folder FOLDER] [--json OUT]

The prompts are those of the pairs of `benchmarks.rm.large`, read out of preference data; the policy is a tiny Llama with SmolLM2's
tokenizer. The job is a `rewardloop ppo` command in a process of its own, which is stopped after its first batch. The time is from the
start of the command to the first row of its metrics, the memory that of the process at its peak, imports included.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rm.large import MAX_PEAK_GB, wait_for_rows, write_model, write_pairs

OVERRIDES = ("model=custom", "reward=function", "reward.function=benchmarks.ppo.prompts:brevity", "tracker=files", "best_metric=rm_score")
SIZES = ("num_batches=3", "batch_size=4", "minibatch_size=4", "micro_batch_size=4", "max_new_tokens=8", "max_prompt_length=512")


def brevity(prompts: Sequence[Any], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    """A reward that costs nothing."""
    return [[-float(len(completion)) for completion in row] for row in completions]


def main() -> None:
    arguments = argparse.ArgumentParser(description="Seconds to PPO's first batch and peak memory with very many prompts.")
    arguments.add_argument("--prompts", type=int, default=270_000)
    arguments.add_argument("--folder", type=Path, help="where prompts, policy and run go; default: a temporary folder")
    arguments.add_argument("--json", type=Path, help="file for the figures")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(asked.folder or Path(temporary), asked.prompts)
    for name, value in found.items():
        print(f"{name:>10}  {value}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(folder: Path, num_prompts: int) -> dict[str, Any]:
    """The start of one job, and whether its memory stays within the limit."""
    prompts, model, runs = write_pairs(folder / "prompts.jsonl", num_prompts), write_model(folder / "model"), folder / "runs"
    overrides = [*OVERRIDES, *SIZES, f"model.path={model}", f"prompts=[{prompts}]", f"runs_dir={runs}"]
    begun = time.monotonic()
    job = subprocess.Popen([sys.executable, "-m", "launch.cli", "ppo", *overrides])
    first = wait_for_rows(job, runs, 1) - begun
    job.send_signal(signal.SIGTERM)
    _, _, usage = os.wait4(job.pid, 0)
    peak = usage.ru_maxrss * 1024 / 1e9
    return {
        "prompts": num_prompts,
        "file_mb": round(prompts.stat().st_size / 1e6),
        "seconds": round(first, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(peak, 2),
        "passed": peak < MAX_PEAK_GB,
    }


if __name__ == "__main__":
    main()
