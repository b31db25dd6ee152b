"""How a large preference set starts: seconds to the first step and peak memory, of the first job of a sweep and of the next.

    python -m benchmarks.rm.large [--pairs 270000] [--form jsonl|parquet] [--folder FOLDER] [--json OUT]

The pairs are made from the text of Python's own manual (270,000 take 300 MB), with 0.2% of duplicates; the benchmark that their
prompts are compared with has as many prompts as RewardBench 2. The model is a tiny Llama with SmolLM2's tokenizer. Both jobs are
`rewardloop rm` commands in processes of their own, which are stopped after a few steps; they differ in their learning rate. The time
is from the start of the command to the first row of its metrics, the memory that of the process at its peak, imports included.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data import topics
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core.config import ModelConfig
from core.data.chat import pad_id
from core.models.load import load_tokenizer

MAX_PEAK_GB, MAX_SECOND_START_S = 2.0, 15.0
"""What both figures must stay below."""
STEPS = 10
"""Steps after which a job is stopped."""
PROMPTS = 1865
"""Of the benchmark."""
ROWS_AT_A_TIME = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A job's start: seconds to its first step, seconds of all its cores until it was stopped, and its peak memory."""

    seconds: float
    cpu_s: float
    peak_gb: float


def main() -> None:
    arguments = argparse.ArgumentParser(description="Seconds to the first step and peak memory with a large preference set.")
    arguments.add_argument("--pairs", type=int, default=270_000)
    arguments.add_argument("--form", choices=("jsonl", "parquet"), default="jsonl")
    arguments.add_argument("--folder", type=Path, help="where pairs, model, cache and runs go; default: a temporary folder")
    arguments.add_argument("--json", type=Path, help="file for the figures")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(asked.folder or Path(temporary), asked.pairs, asked.form)
    for name, value in found.items():
        print(f"{name:>10}  {value}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(folder: Path, num_pairs: int, form: str) -> dict[str, Any]:
    """Both starts, and whether they stay within the limits."""
    pairs = write_pairs(folder / f"pairs.{form}", num_pairs)
    benchmark = write_benchmark(folder / "benchmark.jsonl")
    model = write_model(folder / "model")
    overrides = [f"model.path={model}", f"data.paths=[{pairs}]", f"hooks.rewardbench2={benchmark}", f"data.cache={folder / 'cache'}"]
    first, second = (start(folder / "runs" / f"{form}-{number}", [*overrides, f"optim.lr={number}e-6"]) for number in (1, 2))
    return {
        "pairs": num_pairs,
        "form": form,
        "file_mb": round(pairs.stat().st_size / 1e6),
        "cores": len(os.sched_getaffinity(0)),
        "first": asdict(first),
        "second": asdict(second),
        "passed": max(first.peak_gb, second.peak_gb) < MAX_PEAK_GB and second.seconds < MAX_SECOND_START_S,
    }


def start(runs: Path, overrides: Sequence[str]) -> Start:
    """Starts a job with a cold process, waits for a few steps, and stops it."""
    sizes = ["model=custom", "data=custom", "data.held_out=0.01", "batch_size=8", "max_length=1024", "log_every=1", "tracker=files"]
    command = [sys.executable, "-m", "launch.cli", "rm", *sizes, f"runs_dir={runs}", *overrides]
    begun = time.monotonic()
    job = subprocess.Popen(command)
    first = wait_for_rows(job, runs, 1) - begun
    wait_for_rows(job, runs, STEPS)
    job.send_signal(signal.SIGTERM)
    _, _, usage = os.wait4(job.pid, 0)
    return Start(seconds=round(first, 1), cpu_s=round(usage.ru_utime + usage.ru_stime, 1), peak_gb=round(usage.ru_maxrss * 1024 / 1e9, 2))


def write_pairs(file: Path, num_pairs: int) -> Path:
    """A file of pairs, made of passages of 20 to 90 words; one in five hundred is there twice."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = _rows(num_pairs)
    if file.suffix == ".parquet":
        schema = pa.schema({name: pa.string() for name in ("prompt", "chosen", "rejected")})
        with pq.ParquetWriter(file, schema) as table:
            while chunk := [row for row, _ in zip(rows, range(ROWS_AT_A_TIME), strict=False)]:
                table.write_table(pa.Table.from_pylist(chunk, schema=schema), row_group_size=num_pairs)
    else:
        with file.open("w", encoding="utf-8") as text:
            text.writelines(f"{json.dumps(row)}\n" for row in rows)
    return file


def write_benchmark(file: Path) -> Path:
    """Rows in RewardBench 2's schema, whose prompts are of the same text."""
    draw = random.Random("benchmark")
    with file.open("w", encoding="utf-8") as text:
        for number in range(PROMPTS):
            row = {"id": str(number), "prompt": _passage(draw), "chosen": ["yes"], "rejected": ["no", "never", "none"], "subset": "Math"}
            text.write(f"{json.dumps(row)}\n")
    return file


def write_model(folder: Path) -> Path:
    """A Llama of one small layer with random weights and SmolLM2's tokenizer."""
    tokenizer = load_tokenizer(ModelConfig(path="pip:smollm2-135m"))
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=2048,
        pad_token_id=pad_id(tokenizer),
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _rows(num_pairs: int) -> Iterator[dict[str, str]]:
    draw = random.Random("pairs")
    row: dict[str, str] = {}
    for number in range(num_pairs):
        if not number or number % 500:
            row = {"prompt": f"{number}. {_passage(draw)}", "chosen": _passage(draw), "rejected": _passage(draw)}
        yield row


_WORDS = " ".join(topics.topics.values()).split()


def _passage(draw: random.Random) -> str:
    num_words = draw.randrange(20, 90)
    first = draw.randrange(len(_WORDS) - num_words)
    return " ".join(_WORDS[first : first + num_words])


def wait_for_rows(job: subprocess.Popen[bytes], runs: Path, num_rows: int) -> float:
    """Waits until the job has logged so many rows of training; returns the time."""
    while job.poll() is None:
        logged = [line for file in runs.glob("*/*/metrics.jsonl") for line in file.read_text().splitlines() if '"train/step"' in line]
        if len(logged) >= num_rows:
            return time.monotonic()
        time.sleep(0.05)
    raise RuntimeError(f"the job ended with {job.returncode} before step {num_rows}")


if __name__ == "__main__":
    main()
