"""A run that is killed again and again: `python -m tests.rmtrain.kills POLICY_FOLDER OUT_FOLDER NUM_KILLS SEED`.

Trains once in peace, then in processes that SIGKILL ends after a random number of steps and a random time more, from
loading the model to writing a checkpoint, until so many were killed; prints as JSON the hashes of the last checkpoints'
weights and optimiser states, and where kills fell.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from core.config import ModelConfig, OptimConfig
from core.hooks.run_context import RunContext
from core.records import Preference, user
from core.runs.checkpoints import saved_steps, step_folder
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.train import train
from tests.fakes import RecordingHook

PAIRS = [Preference(prompt=user(f"Name a fruit, {i}."), chosen=f"A plum, {i % 7}.", rejected="No.") for i in range(800)]
STEPS = 400


def fit(policy: str, run_dir: Path) -> None:
    config = RewardModelConfig(
        model=ModelConfig(path=policy),
        data=PreferenceDataConfig(paths=["unused.jsonl"]),
        optim=OptimConfig(lr=1e-3),
        batch_size=4,
        epochs=2,
        num_checkpoints=5,
        save_minutes=1e-6,  # at every step, so that many a kill falls into the saving
    )
    run_dir.mkdir(parents=True, exist_ok=True)
    train(config, RunContext(dir=run_dir, hooks=[RecordingHook(quality=1.0)], say=lambda _: None), preferences=PAIRS)


def child(policy: str, run_dir: Path) -> int:
    """Starts a process that trains; returns its id."""
    pid = os.fork()
    if pid == 0:
        fit(policy, run_dir)
        os._exit(0)
    return pid


def has_ended(pid: int) -> bool:
    done, status = os.waitpid(pid, os.WNOHANG)
    assert status == 0, f"training failed with status {status}"
    return done == pid


def newest(run_dir: Path) -> int:
    return max([0, *saved_steps(run_dir)])


def hash_of(run_dir: Path) -> str:
    digest = hashlib.sha256()
    last = step_folder(run_dir, STEPS)
    for name in ("model.safetensors", "state/state.pt"):
        digest.update((last / name).read_bytes())
    return digest.hexdigest()


def main() -> None:
    policy, out, num_kills, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    draw = random.Random(seed)
    pid = child(policy, out / "whole")
    os.waitpid(pid, 0)
    found: dict[str, list[str]] = {"hashes": [hash_of(out / "whole")], "killed_at": []}
    run = 0
    while len(found["killed_at"]) < num_kills or pid:
        folder = out / f"torn-{run}"
        pid = child(policy, folder)
        # By steps, not by the clock alone: on a busy machine none would come to its first one.
        steps = draw.choice([0, 1, 5, 20, 50]) if len(found["killed_at"]) < num_kills else STEPS
        wanted, pause = newest(folder) + steps, draw.uniform(0.0, 0.3 if steps == 0 else 0.03)
        while not (ended := has_ended(pid)) and newest(folder) < wanted:
            time.sleep(0.001)
        if not ended and steps < STEPS:
            time.sleep(pause)
            ended = has_ended(pid)
        if ended:
            found["hashes"].append(hash_of(folder))
            run, pid = run + 1, 0
        else:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            found["killed_at"].append(str(newest(folder)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
