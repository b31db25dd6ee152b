"""A small study on the microworld through the command line: two reward models and a PPO run of five batches."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.findings import Finding
from benchmarks.gpu.subjects import CHECKOUT, Scale

STUDY = """# @package _global_
study: small
embedded: true
parallel: 3
world: {world}
common: ["tracker=files"]
pools: ["pool.n=4", "pool.max_new_tokens=24"]
reward_models:
  - model=coast data=union optim.lr=1e-3 num_checkpoints=1 hooks.best_of=[4]
  - model=coast data=union data.flip=1.0 optim.lr=1e-3 num_checkpoints=1 hooks.best_of=[4]
ppo:
  same-lineage:
    reward: {lineage: same}
    overrides: [num_batches=5, num_checkpoints=1, batch_size=64, minibatch_size=32, micro_batch_size=32, hooks.downstream.n=1]
"""
WORLD = "{corpus_size: 4000, pairs: 600, benchmark_rows: 12, task_rows: 12}"
TINY_WORLD = "{corpus_size: 160, pairs: 64, benchmark_rows: 3, task_rows: 2, vocab_size: 600}"


def study(scale: Scale) -> Iterator[Finding]:
    """Does it end, and is its table sane: the model of the flipped labels below the other one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "mine" / "experiment" / "small.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(STUDY.replace("{world}", TINY_WORLD if scale.tiny else WORLD))
        command = [sys.executable, "-m", "launch.study", f"hydra.searchpath=[file://{folder / 'mine'}]", "experiment=small"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])}
        started = time.monotonic()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"code {done.returncode}: " + " | ".join((done.stdout + done.stderr).strip().splitlines()[-6:]))
        summary = json.loads((folder / "runs" / "small" / "report" / "summary.json").read_text())
        spent = time.monotonic() - started
        for model in sorted(summary["reward_models"], key=lambda model: model["control"]):
            yield {
                "what": "reward model of flipped labels" if model["control"] else "reward model",
                "rewardbench2": model["rewardbench2"]["overall"],
                "best of 4": model["bon"]["average"],
            }
        (ppo,) = summary["ppo"]
        averages = [checkpoint["downstream_average"] for checkpoint in ppo["checkpoints"]]
        yield {"what": "PPO, downstream before and after", "first": averages[0], "last": averages[-1], "s for the study": spent}
