"""Speed of PPO: ours against TRL's last PPOTrainer.

    python -m benchmarks.ppo.speed [--world runs/demo/world-0 --runs runs/demo] [--data FOLDER] [--rounds 1] [--json OUT]

The same policy, reference, reward model, critic, prompts, lengths, batches, minibatches, epochs, losses, learning rate and
dtype. Every contender runs in its own process, one after another, `--rounds` times; each round draws its own prompts. The row
`episodes` is the ratio of episodes per second, ours to the peer's, without the first batch (a warm-up), loading and
checkpoints. TRL is run with several settings (rollout batch size, dtype of the weights), and its fastest counts.

TRL removed its trainer; the last release that has it is installed in its own environment, see `make bench-ppo`. Both sides use
the same torch and transformers.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.ppo.plan import PARTS, Finding, Plan
from benchmarks.ppo.subjects import Subject, microworld, smollm2

OURS = "ours"
TARGET = 2.0
SUBJECTS = ("microworld", "smollm2")
PROMPTS = "gsm8k_train.jsonl"
PEER = Path(__file__).parents[2] / ".venv-ppo-peer" / "bin" / "python"

Findings = dict[str, list[Finding]]
"""One finding per round, by contender."""


def main() -> None:
    arguments = parse()
    logging.disable(logging.WARNING)  # libraries' banners, and warnings about new heads
    disable_progress_bar()
    results: dict[str, Any] = {"machine": describe_machine(), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for subject in chosen(arguments, Path(folder)):
            results["rows"].append(beside_trl(subject, arguments, Path(folder)))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, help="a world's folder (runs/demo/world-0); without it one is made, its policy untrained")
    parser.add_argument("--runs", type=Path, help="a study's folder (runs/demo), whose best reward model is taken; needs --world")
    parser.add_argument("--data", type=Path, help=f"folder with {PROMPTS}, for smollm2")
    parser.add_argument("--model", default="pip:smollm2-135m", help="policy and reward model's body of smollm2")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, help="default: microworld, and smollm2 with --data")
    parser.add_argument("--batches", type=int, help="timed batches; default 12 for microworld, 1 for smollm2")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peer", type=Path, default=PEER, help="Python of an environment with TRL's trainer")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.only = arguments.only or [*SUBJECTS[: 2 if arguments.data else 1]]
    if not arguments.peer.is_file():
        parser.error(f"--peer={arguments.peer} does not exist; `make bench-ppo` makes it")
    if arguments.runs and not arguments.world:
        parser.error("--runs needs --world: its reward models were trained for that world's policy")
    if "smollm2" in arguments.only and not (arguments.data and (arguments.data / PROMPTS).is_file()):
        parser.error(f"{PROMPTS} not found in --data={arguments.data}; name the folder, or leave out smollm2 with --only microworld")
    return arguments


def describe_machine() -> dict[str, Any]:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(f"{name}, {torch.get_num_threads()} threads", flush=True)
    return {"device": name, "threads": torch.get_num_threads()}


def chosen(arguments: argparse.Namespace, folder: Path) -> Iterator[Subject]:
    """The requested subjects, one at a time."""
    if "microworld" in arguments.only:
        yield microworld(arguments.world, arguments.runs, folder)
    if "smollm2" in arguments.only:
        yield smollm2(arguments.data / PROMPTS, arguments.model, folder)


def beside_trl(subject: Subject, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prints and returns the row of one subject."""
    findings: Findings = {}
    for seed in range(arguments.rounds):
        plan = subject.plan(arguments.batches or subject.num_batches, seed)
        for name, own in {OURS: plan, **peers(subject, plan)}.items():
            findings.setdefault(name, []).append(contend(name, own, arguments.peer, folder))
            print(f"{subject.name}, round {seed}: {name} {sum(findings[name][-1].seconds):.1f} s", flush=True)
    found = row(subject, findings)
    report(found)
    return found


def peers(subject: Subject, plan: Plan) -> dict[str, Plan]:
    """The settings that TRL is run with."""
    return {
        f"TRL, rollout of {rows}" + (f", weights in {weights}" if weights else ""): replace(
            plan, peer={"rollout_batch": rows, "weights": weights}
        )
        for rows in subject.rollout_batches
        for weights in subject.weights
    }


def contend(name: str, plan: Plan, peer: Path, folder: Path) -> Finding:
    """Runs one contender in its own process."""
    files = plan.save(folder / "plan.json"), folder / "finding.json"
    python, module = (sys.executable, "benchmarks.ppo.ours") if name == OURS else (str(peer), "benchmarks.ppo.peer")
    done = subprocess.run([python, "-m", module, *map(str, files)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return Finding(**json.loads(files[1].read_text()))


def row(subject: Subject, findings: Findings) -> dict[str, Any]:
    """The row of a subject: medians over the rounds for us and for the peer's fastest setting, and the findings of every round."""
    rates = {name: [rate(finding, subject) for finding in found] for name, found in findings.items()}
    best = max((name for name in rates if name != OURS), key=lambda name: statistics.median(rates[name]))
    ratios = [ours / peer for ours, peer in zip(rates[OURS], rates[best], strict=True)]
    return {
        "name": "episodes",
        "subject": subject.name,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "target": TARGET,
        "how": best,
        "ours": side(findings[OURS], rates[OURS]),
        "peer": side(findings[best], rates[best]),
        "ways": {name: statistics.median(found) for name, found in rates.items() if name != OURS},
        "rounds": {name: [asdict(finding) for finding in found] for name, found in findings.items()},
    }


def rate(finding: Finding, subject: Subject) -> float:
    """Episodes per second."""
    return len(finding.seconds) * subject.batch_size / sum(finding.seconds)


def side(findings: Sequence[Finding], rates: Sequence[float]) -> dict[str, Any]:
    """Medians over the rounds; seconds per batch, total and by part; the highest memory in MiB; the first round's curves."""
    first = findings[0]
    return {
        "episodes_per_second": statistics.median(rates),
        "seconds": statistics.median(statistics.mean(finding.seconds) for finding in findings),
        "parts": {part: statistics.median(statistics.mean(finding.parts[part]) for finding in findings) for part in PARTS},
        "peak_mib": max(finding.peak_mib for finding in findings),
        "tokens_per_second": statistics.median(
            speed * statistics.mean(finding.curves["length"][1:]) for speed, finding in zip(rates, findings, strict=True)
        ),
        "curves": first.curves,
        "versions": first.versions,
    }


def report(found: Mapping[str, Any]) -> None:
    print(f"\nepisodes ({found['subject']}): ratio {found['ratio']:.2f}, target {found['target']}; peer: {found['how']}")
    for name in ("ours", "peer"):
        own = found[name]
        parts = ", ".join(f"{part} {own['parts'][part]:.2f}" for part in PARTS)
        print(f"  {name:4} {own['episodes_per_second']:.2f} episodes/s, {own['tokens_per_second']:.0f} drawn tokens/s;", end=" ")
        print(f"a batch {own['seconds']:.2f} s ({parts}), at most {own['peak_mib']:.0f} MiB; {own['versions']}")
    print("  batch  " + "".join(f"{curve + ' ours, peer':>26}" for curve in found["ours"]["curves"]))
    for batch, values in enumerate(zip(*pairs(found), strict=True), start=1):
        print(f"  {batch:5}  " + "".join(f"{ours:17.3f} {peer:8.3f}" for ours, peer in values), flush=True)


def pairs(found: Mapping[str, Any]) -> list[list[tuple[float, float]]]:
    """The curves of both sides, by curve and batch."""
    ours, peer = found["ours"]["curves"], found["peer"]["curves"]
    return [list(zip(ours[curve], peer[curve], strict=True)) for curve in ours]


if __name__ == "__main__":
    sys.exit(main())
