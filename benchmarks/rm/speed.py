"""Speed of reward-model training: prompt trees against TRL's RewardTrainer.

    python -m benchmarks.rm.speed --data FOLDER [--only coconot] [--batches 6] [--rounds 1] [--json OUT]
    python -m benchmarks.rm.speed --data FOLDER --curves     the losses of both, step by step, in fp32
    python -m benchmarks.rm.speed --gpu                      a 1B Llama with random weights, 2048 tokens, with MFU

The same weights, head, pairs, tokens, learning rates, AdamW and dtype; 8 pairs per step, TRL's default. Every contender runs
in its own process, one after another, `--rounds` times; each round draws its own pairs. A ratio is the median over the rounds
of the peer's seconds divided by ours, without tokenisation and loading.

- `TRL default`: our batches in our order, with TRL's defaults: activation checkpointing, random order.
- `TRL grouped`: its best setting here: no checkpointing, and batches from transformers' length grouping over all pairs.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.machine import device, matmul_peak
from benchmarks.rm.contender import DEFAULT, GROUPED, OURS, Finding
from benchmarks.rm.plans import BATCH, Plan, Work, grouped, sample, shuffled, work
from benchmarks.rm.subjects import Subject, llama_1b, microworld, real, shrunk
from core.config import Dtype
from core.models.load import DTYPES
from core.process.hardware import peak_flops

TARGETS = {
    "coconot vs TRL default": 1.8,
    "hh_harmless vs TRL default": 3.0,
    "coconot vs TRL grouped": 1.15,
    "hh_harmless vs TRL grouped": 1.5,
}
FILES = {"coconot": "coconot_pref.jsonl", "hh_harmless": "hh_harmless_test.jsonl"}
MICROWORLD = "microworld"
LARGEST_DIFFERENCE = 1e-3
"""The largest allowed difference between two loss curves in fp32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """The contenders' findings on one sample of pairs, the work by contender, and the number of pairs."""

    findings: dict[str, Finding]
    work: dict[str, Work]
    num_pairs: int


def main() -> None:
    arguments = parse()
    logging.disable(logging.WARNING)  # libraries' banners, and warnings about new heads
    disable_progress_bar()
    results: dict[str, Any] = {"machine": describe_machine(arguments), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.curves:
            results["rows"] = [
                curves(shrunk(subject, arguments.layers, Path(folder)), arguments) for subject in chosen(arguments, Path(folder))
            ]
        else:
            for subject in chosen(arguments, Path(folder)):
                results["rows"] += beside_trl(subject, arguments, results["machine"]["peak_flops"], Path(folder))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=f"folder with {' and '.join(FILES.values())}; without it: microworld alone")
    parser.add_argument("--world", type=Path, help="a world's folder (runs/demo/world-0); without it one is made, its model untrained")
    parser.add_argument("--only", nargs="+", choices=[*FILES, MICROWORLD], help="sets of pairs")
    parser.add_argument("--peers", nargs="+", choices=[DEFAULT, GROUPED], default=[DEFAULT, GROUPED])
    parser.add_argument("--model", default="pip:smollm2-135m")
    parser.add_argument(
        "--dtype", choices=["bf16", "fp32"], help="default bf16; fp32 for the microworld's model, where all are faster in it"
    )
    parser.add_argument("--batches", type=int, default=6, help=f"timed steps, of {BATCH} pairs each; 20 times as many for microworld")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--lr", type=float, help="default 1e-5; 1e-4 with --curves")
    parser.add_argument("--micro-batch-tokens", type=int, help="ours: unique tokens per forward pass; default 1024, 16384 with --gpu")
    parser.add_argument(
        "--curves", action="store_true", help="losses in fp32, ours beside TRL's, on a model of the same kind with few layers"
    )
    parser.add_argument("--steps", type=int, default=50, help="of --curves")
    parser.add_argument("--layers", type=int, default=2, help="of the model of --curves; 0: the whole model")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.gpu and not torch.cuda.is_available():
        parser.error("--gpu needs a CUDA device, and torch sees none here; without it the rows for this machine are measured")
    arguments.only = arguments.only or [*(FILES if arguments.data else ()), MICROWORLD]
    needed = [FILES[name] for name in arguments.only if name in FILES]
    if missing := [file for file in needed if arguments.data is None or not (arguments.data / file).is_file()]:
        parser.error(f"{', '.join(missing)} not found in --data={arguments.data}; name the folder, or choose other pairs with --only")
    arguments.lr = arguments.lr or (1e-4 if arguments.curves else 1e-5)
    arguments.micro_batch_tokens = arguments.micro_batch_tokens or (16384 if arguments.gpu else 1024)
    return arguments


def describe_machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """The machine; the peak is a GPU's data-sheet value, otherwise measured with a plain matrix product."""
    measured = Dtype(arguments.dtype or Dtype.bf16)
    peak = peak_flops(device()) or matmul_peak(DTYPES[measured])
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    packages = {package: version(package) for package in ("torch", "transformers", "trl")}
    print(f"{name}, {torch.get_num_threads()} threads, {peak / 1e9:.0f} GFLOP/s in {measured}, {packages}", flush=True)
    return {"device": name, "threads": torch.get_num_threads(), "peak_flops": peak, **packages}


def chosen(arguments: argparse.Namespace, folder: Path) -> Iterator[Subject]:
    """The requested sets of pairs, each with its model, one at a time."""
    if arguments.gpu:
        yield llama_1b(folder)
        return
    for name in arguments.only:
        if name == MICROWORLD:
            yield microworld(arguments.world, folder)
        else:
            yield real(name, arguments.data / FILES[name], arguments.model, folder)


def beside_trl(subject: Subject, arguments: argparse.Namespace, peak: float, folder: Path) -> list[dict[str, Any]]:
    """The rows of one set of pairs."""
    rounds: list[Round] = []
    for seed in range(arguments.rounds):
        drawn = sample(subject.pairs, arguments.batches * subject.batches_factor, seed)
        plan = Plan(
            model=str(subject.model),
            pairs=[(pair.chosen.tolist(), pair.rejected.tolist()) for pair in drawn.pairs],
            shuffled=drawn.shuffled,
            grouped=drawn.grouped,
            probe=drawn.probe,
            dtype=arguments.dtype or subject.dtype,
            lr=arguments.lr,
            micro_batch_tokens=arguments.micro_batch_tokens,
        )
        findings = {name: contend(name, plan, folder) for name in (OURS, *arguments.peers)}
        dealt = {OURS: drawn.shuffled, DEFAULT: drawn.shuffled, GROUPED: drawn.grouped}
        done = {name: work(drawn.pairs, dealt[name]) for name in findings}
        rounds.append(Round(findings=findings, work=done, num_pairs=len(drawn.shuffled) * BATCH))
    return [row(subject, name, rounds, peak) for name in arguments.peers]


def contend(name: str, plan: Plan, folder: Path) -> Finding:
    """Runs one contender in its own process."""
    files = plan.save(folder / "plan.json"), folder / "finding.json"
    command = [sys.executable, "-m", "benchmarks.rm.contender", name, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return Finding(**json.loads(files[1].read_text()))


def row(subject: Subject, peer: str, rounds: Sequence[Round], peak: float) -> dict[str, Any]:
    """Prints and returns one row of the table."""
    name = f"{subject.name} vs {peer}"
    whole = {DEFAULT: shuffled(len(subject.pairs), 0), GROUPED: grouped(subject.pairs, 0)}[peer]
    found: dict[str, Any] = {
        "what": name,
        "name": name,
        "ratio": statistics.median(r.findings[peer].seconds / r.findings[OURS].seconds for r in rounds),
        "ratios": [r.findings[peer].seconds / r.findings[OURS].seconds for r in rounds],
        "target": TARGETS.get(name),
        "counted_on_tokens": statistics.median(r.work[peer].padded / r.work[OURS].unique for r in rounds),
        "counted_on_all_pairs": _counted(work(subject.pairs, whole)),
        "ours": side(OURS, rounds, peak),
        "peer": side(peer, rounds, peak),
        "how": "checkpointing, random order" if peer == DEFAULT else "no checkpointing, grouped by length",
    }
    report(found)
    return found


def side(name: str, rounds: Sequence[Round], peak: float) -> dict[str, float]:
    """Medians over the rounds; the highest memory in MiB. `share_of_peak` is an MFU (Chowdhery et al. 2022, appendix B)
    that counts attention, and padding where there is any."""
    findings = [r.findings[name] for r in rounds]
    return {
        "tokens_per_second": statistics.median(r.work[name].tokens / r.findings[name].seconds for r in rounds),
        "pairs_per_second": statistics.median(r.num_pairs / r.findings[name].seconds for r in rounds),
        "seconds": statistics.median(finding.seconds for finding in findings),
        "share_of_peak": statistics.median(finding.flops / finding.seconds / peak for finding in findings),
        "peak_mib": max(finding.peak_mib for finding in findings),
        "before_mib": max(finding.before_mib for finding in findings),
        "process_mib": max(finding.process_mib for finding in findings),
        "mean_loss": statistics.median(statistics.mean(finding.losses[1:-1]) for finding in findings),
        "final_loss": statistics.median(finding.losses[-1] for finding in findings),
    }


def report(found: dict[str, Any]) -> None:
    target = f", target {found['target']}" if found["target"] else ""
    print(f"\n{found['name']} ({found['how']}): ratio {found['ratio']:.2f}{target}; ", end="")
    print(f"counted on tokens {found['counted_on_tokens']:.2f}, on those of all pairs {found['counted_on_all_pairs']:.2f}")
    for name in ("ours", "peer"):
        print(f"  {name:4}", end=" ")
        print("{tokens_per_second:.0f} tokens/s, {pairs_per_second:.2f} pairs/s, MFU {share_of_peak:.0%}, ".format(**found[name]), end="")
        print("at most {peak_mib:.0f} MiB ({before_mib:.0f} before), ".format(**found[name]), end="")
        print("loss {mean_loss:.4f}, in the end {final_loss:.4f}".format(**found[name]), flush=True)


def curves(subject: Subject, arguments: argparse.Namespace) -> dict[str, Any]:
    """Losses of the same steps on both sides, in fp32."""
    batches = shuffled(len(subject.pairs), 0)[: arguments.steps]
    plan = Plan(
        model=str(subject.model),
        pairs=[(pair.chosen.tolist(), pair.rejected.tolist()) for pair in subject.pairs],
        shuffled=batches,
        grouped=[],
        probe=[],
        dtype="fp32",
        lr=arguments.lr,
        micro_batch_tokens=arguments.micro_batch_tokens,
    )
    ours, peer = (contend(name, plan, subject.model.parent) for name in (OURS, DEFAULT))
    difference = max(abs(a - b) for a, b in zip(ours.losses, peer.losses, strict=True))
    name = f"{subject.name} loss curves"
    found = {
        "what": name,
        "name": name,
        "difference": difference,
        "target": LARGEST_DIFFERENCE,
        "steps": len(batches),
        "ours": asdict(ours),
        "peer": asdict(peer),
    }
    first, last = ours.losses[0], ours.losses[-1]
    print(f"{name}: {len(batches)} steps in fp32, loss {first:.4f} to {last:.4f}, largest difference of a step {difference:.1e}", end="")
    print(f" (limit {LARGEST_DIFFERENCE:g}); memory at most {ours.peak_mib:.0f} MiB, TRL {peer.peak_mib:.0f} MiB", flush=True)
    return found


def _counted(done: Work) -> float:
    return done.padded / done.unique


if __name__ == "__main__":
    sys.exit(main())
