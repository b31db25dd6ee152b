"""The commands themselves on this device, all at once, on tiny random models: does each end, and what does it say where it fails."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.gpu.findings import Finding
from benchmarks.gpu.subjects import CHECKOUT, Scale, Size, classifier, language_model
from microworld.config import LINEAGES, WorldConfig
from microworld.world import build_world

RM = ("rm", "data=atlas", "max_length=96", "batch_size=8", "num_checkpoints=2", "log_every=1", "hooks.pools=")
PPO = (
    *("ppo", "num_batches=2", "num_checkpoints=1", "batch_size=16", "minibatch_size=8", "micro_batch_size=8"),
    *("max_new_tokens=16", "hooks.downstream.n=2", "hooks.downstream.max_new_tokens=16", "reward.path={reward}"),
)
GROUPS = ("group_size=4", "micro_batch_size=4")
BF16, FP32 = "model.dtype=bf16", "model.dtype=fp32"
ONE_PROCESS = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m")


@dataclass(frozen=True, slots=True)
class Command:
    """A command with its overrides; some are started by torchrun, or killed once they have saved and then started again."""

    name: str
    arguments: tuple[str, ...]
    sharded: bool = False
    killed: bool = False


COMMANDS = (
    Command("rm, bf16", (*RM, BF16)),
    Command("rm, fp32", (*RM, FP32)),
    Command("rm, LoRA", (*RM, BF16, "lora.rank=4")),
    Command("rm, killed and resumed", (*RM, BF16, "epochs=2", "save_minutes=1e-9"), killed=True),
    Command("rm, two at a time", (*RM, BF16, "parallel=2", "optim.lr=1e-3,1e-4")),
    Command("rm, FSDP2", (*RM, BF16, "engine=fsdp2"), sharded=True),
    Command("ppo, bf16", (*PPO, BF16)),
    Command("ppo, fp32", (*PPO, FP32)),
    Command("ppo, FSDP2", (*PPO, BF16, "engine=fsdp2"), sharded=True),
    Command("grpo", (*PPO, *GROUPS, BF16, "algo=grpo")),
    Command("rloo", (*PPO, *GROUPS, BF16, "algo=rloo")),
    Command("bon", ("bon", BF16, "pool.n=4", "pool.max_new_tokens=16", "best_of=[1,2]", "rewards=[{reward}]")),
    Command(
        "bench", ("bench", "rows={world}/benchmark/rewardbench2.jsonl", "reward.path={reward}", "reward.dtype=bf16", "out=result.json")
    ),
)


def commands(scale: Scale) -> Iterator[Finding]:
    """One line for each command as it ends. Their seconds say nothing: they share the device and the processors."""
    chosen = [command for command in COMMANDS if not scale.tiny or command.name == "bench"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = {"world": str(folder / "world"), "reward": str(folder / "reward")}
        build(folder)
        with ThreadPoolExecutor(len(chosen)) as threads:
            running = {threads.submit(run, command, folder, places): command for command in chosen}
            failed = 0
            for done in as_completed(running):
                code, spent, said = done.result()
                failed += code != 0
                why = {"said": said[-900:].replace("\n", " | ")} if code else {}
                yield {"what": running[done].name, "code": code, "s": spent, **why}
        if failed:
            raise RuntimeError(f"{failed} of {len(chosen)} commands failed")


def build(folder: Path) -> None:
    """A microworld of a few rows, with random policies and a random reward model of heads that the kernels know."""
    world = build_world(WorldConfig(corpus_size=60, pairs=48, benchmark_rows=3, task_rows=4, vocab_size=300), folder / "world")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(world / "tokenizer")
    size = Size(hidden=256, inner=512, layers=4, heads=4, key_heads=2, vocabulary=len(tokenizer))
    for lineage in LINEAGES:
        model, place = language_model(size, torch.float32), world / "policies" / lineage
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    model = classifier(size, torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")


def run(command: Command, folder: Path, places: dict[str, str]) -> tuple[int, float, str]:
    """Exit code, seconds, and what was said."""
    own = folder / command.name.replace(", ", "-").replace(" ", "-")
    own.mkdir()
    job, *rest = (argument.format(**places) for argument in command.arguments)
    common = (
        ["runs_dir=runs", "study=tiny"] if job == "bench" else ["runs_dir=runs", "study=tiny", "tracker=files", f"world={places['world']}"]
    )
    sweep = ["-m"] if any("parallel" in argument for argument in rest) else []
    how = ONE_PROCESS if command.sharded else ("-m",)
    line = [sys.executable, *how, f"launch.{job}", *sweep, *common, *rest]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])}
    started = time.monotonic()
    if command.killed:
        kill_once_saved(line, own, environment)
    done = subprocess.run(line, cwd=own, env=environment, capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip()
    return done.returncode, time.monotonic() - started, said


def kill_once_saved(line: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
    """Starts the command and ends it as a machine that fails would, after its second saved step or as it ends."""
    with (folder / "first.log").open("w") as log:
        process = subprocess.Popen(line, cwd=folder, env=environment, stdout=log, stderr=log)
        while process.poll() is None and not any(folder.glob("runs/*/*/checkpoints/step-*2")):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
