"""Does PPO learn what its reward says, and does it stop when it over-optimises the reward?

    python -m benchmarks.ppo.learning --world runs/demo/world-0 [--seeds 0 1 2] [--only good flipped] [--json OUT] [--plot OUT.png]
    python -m benchmarks.ppo.learning --draw NAME=RUN_FOLDER ... --plot OUT.png     figures and picture of any PPO runs

All reward models and PPO runs are made by the public commands, one after another, in RUNS_DIR/ppo-learning; finished runs are not
repeated. A seed applies to reward model and PPO; world and policy are fixed. `rewardloop study experiment=demo` makes the world.

- good: a reward model of the policy's own lineage, trained on all pairs, and a KL target
- flipped: the same with all labels flipped
- other tokenizer: the same with a base that differs in tokenizer and chat template (`benchmarks.ppo.other_base`)
- weak: a reward model trained on a tenth of the pairs for four epochs, and almost no KL penalty: over-optimisation (Gao et al. 2023)
- stopped: the same with stop_after_falls
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from benchmarks.ppo.curves import Curve, draw, interval_of_difference, read_curve, replayed

ROOT = Path(__file__).parents[2]
STUDY = "ppo-learning"

LEAST_GAIN = 8.0
"""Points that PPO must gain with a good reward model."""
KL_TARGET = 0.5
KL_SLACK = 1.2
"""The final KL may be this multiple of its target: the controller reacts to noise and settles around the target."""
LARGEST_LOSS = 0.5
"""Share of the gain that may be lost by the time the stop fires."""
FALLS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One reward model and one PPO run per seed: the overrides of their commands. `other_base` applies to the reward model."""

    rm: str
    rm_overrides: tuple[str, ...] = ()
    ppo_overrides: tuple[str, ...] = ()
    other_base: bool = False


_HELD = (f"kl.target={KL_TARGET}", "kl.horizon=1000", "num_batches=40", "num_checkpoints=4")
# Gain and loss take a dozen batches each, so the stop needs a checkpoint every other batch. Without value_warmup the first batches
# lose points while the score rises, which the stop mistakes for over-optimisation.
_FREE = ("optim.lr=3e-4", "optim.schedule=constant", "kl.beta=0.001", "value_warmup=2", "num_batches=40", "num_checkpoints=20")
_FEW = ("data.subsample=0.1", "epochs=4")

ARMS: Mapping[str, Arm] = {
    "good": Arm(rm="good", ppo_overrides=_HELD),
    "flipped": Arm(rm="flipped", rm_overrides=("data.flip=1.0",), ppo_overrides=_HELD),
    # A critic can start only from a reward model with the policy's tokenizer, so in this comparison neither critic does.
    "twin": Arm(rm="good", ppo_overrides=(*_HELD, "critic=policy")),
    "other tokenizer": Arm(rm="other-tokenizer", ppo_overrides=(*_HELD, "critic=policy"), other_base=True),
    "weak": Arm(rm="weak", rm_overrides=_FEW, ppo_overrides=_FREE),
    "stopped": Arm(rm="weak", rm_overrides=_FEW, ppo_overrides=(*_FREE, f"stop_after_falls={FALLS}")),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A claim, the measurement, and whether the claim holds."""

    claim: str
    seen: str
    holds: bool


def run_arm(arm: Arm, name: str, seed: int, world: Path, runs_dir: Path) -> Path:
    """Trains the arm's reward model and policy with this seed, unless both are there, and returns the folder of the PPO run."""
    common = [f"world={world}", f"runs_dir={runs_dir}", f"study={STUDY}", "tracker=files", f"seed={seed}"]
    base = []
    if arm.other_base:
        other = last_line([sys.executable, "-m", "benchmarks.ppo.other_base", str(world), str(runs_dir / STUDY / "other-base")])
        base = ["model=custom", f"model.path={other}", "preset=microworld"]
    # Pools are for best-of-N, which is not measured here.
    rm = rewardloop("rm", [*common, *base, f"name={arm.rm}-{seed}", "num_checkpoints=1", "hooks.pools=", *arm.rm_overrides])
    return rewardloop("ppo", [*common, f"name={name.replace(' ', '-')}-{seed}", f"reward.path={rm}", *arm.ppo_overrides])


def rewardloop(job: str, overrides: Sequence[str]) -> Path:
    """Runs a command and returns its run folder, which its last output line starts with."""
    return Path(last_line([sys.executable, "-c", "from launch.cli import main; main()", job, *overrides]).partition(": ")[0])


def last_line(command: Sequence[str]) -> str:
    """The last line that a command prints; its messages go to the terminal. Raises `RuntimeError` if it fails."""
    print("$", *command[1:], file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode} of {' '.join(command)}; what it said stands above. {done.stdout[-500:]}")
    return done.stdout.strip().splitlines()[-1]


def verdicts(arms: Mapping[str, Sequence[Curve]]) -> list[Verdict]:
    """The claims that the given arms can test; figures are means over seeds unless stated otherwise."""
    found = []
    good = arms.get("good", ())
    if good:
        gain = statistics.mean(curve.gain for curve in good)
        claim = f"a good reward model brings {LEAST_GAIN:g} points at the best checkpoint"
        found.append(Verdict(claim=claim, seen=f"{gain:+.1f} ({_each(c.gain for c in good)})", holds=gain >= LEAST_GAIN))
        kls = [curve.kl_end for curve in good]
        claim = f"every KL ends within its target of {KL_TARGET:g} nats per completion, times {KL_SLACK:g} for noise"
        found.append(Verdict(claim=claim, seen=", ".join(f"{kl:.2f}" for kl in kls), holds=max(kls) <= KL_SLACK * KL_TARGET))
    if flipped := arms.get("flipped"):
        changes = [curve.change for curve in flipped]
        found.append(Verdict(claim="with flipped labels every run ends lower", seen=_each(changes), holds=max(changes) < 0))
    if (free := arms.get("weak")) and (stopped := arms.get("stopped")):
        found += _of_the_stop(free, stopped)
    if (other := arms.get("other tokenizer")) and len(twin := arms.get("twin", ())) == len(other) > 1:
        mean, half = interval_of_difference([c.gain for c in other], [c.gain for c in twin])
        claim = "a reward model of another tokenizer and template trains as well as its twin (95% interval holds 0)"
        found.append(Verdict(claim=claim, seen=f"{mean:+.1f} ± {half:.1f} points", holds=abs(mean) <= half))
    return found


def _of_the_stop(free: Sequence[Curve], stopped: Sequence[Curve]) -> list[Verdict]:
    lost = [1.0 if curve.lost is None else curve.lost for curve in stopped]
    return [
        Verdict(
            claim="without the stop every run loses from its best checkpoint on, while the reward rises",
            seen=f"from the best checkpoint to the last {_each(c.change - c.gain for c in free)}",
            holds=all(curve.deceived for curve in free),
        ),
        Verdict(
            claim=f"the stop fires in every run before {LARGEST_LOSS:.0%} of the gain is lost",
            seen=", ".join(f"{share:.0%}{'' if c.stopped_because else ' (no stop)'}" for share, c in zip(lost, stopped, strict=True)),
            holds=all(c.stopped_because for c in stopped) and max(lost) < LARGEST_LOSS,
        ),
    ]


def _each(values: Iterable[float]) -> str:
    return ", ".join(f"{value:+.1f}" for value in values)


def table(arms: Mapping[str, Sequence[Curve]]) -> str:
    """Markdown: one row per run; downstream in points of 100, KL in nats per completion, batches in brackets."""
    columns = ("arm", "start", "best", "last", "gain", "of it lost", "score: start, best, last", "KL in the end / target")
    rows = [columns, ["---"] * len(columns), *(_row(name, curve) for name, curves in arms.items() for curve in curves)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def settings_of_the_stop(curves: Sequence[Curve]) -> str:
    """Markdown: what other stop settings would have kept of each run without a stop (see `replayed`)."""
    lines = ["| falls | every | stopped at batch | gain, lost again |", "|---|---|---|---|"]
    for num_falls, every in product((1, 2, 3), (1, 2, 4)):
        cut = [replayed(curve, num_falls, every) for curve in curves]
        ends = ", ".join(str(c.steps[-1]) if c.stopped_because else "never" for c in cut)
        kept = ", ".join(f"{c.gain:+.1f} {'' if c.lost is None else f'{c.lost:.0%}'}".strip() for c in cut)
        lines.append(f"| {num_falls} | {every} | {ends} | {kept} |")
    return "\n".join(lines)


def _row(name: str, curve: Curve) -> list[str]:
    return [
        name,
        f"{curve.downstream[0]:.1f}",
        f"{curve.downstream[curve.peak]:.1f} ({curve.steps[curve.peak]})",
        f"{curve.downstream[-1]:.1f} ({curve.steps[-1]}{', stopped' if curve.stopped_because else ''})",
        f"{curve.gain:+.1f}",
        "" if curve.lost is None else f"{curve.lost:.0%}",
        ", ".join(f"{curve.scores[place]:.2f}" for place in (0, curve.peak, -1)),
        f"{curve.kl_end:.2f} / {'free' if curve.target is None else f'{curve.target:g}'}",
    ]


def main() -> None:
    arguments = _arguments()
    if arguments.draw:
        named = [text.partition("=") for text in arguments.draw]
        arms: dict[str, list[Curve]] = {name: [] for name, _, _ in named}
        for name, _, folder in named:
            arms[name].append(read_curve(Path(folder)))
    else:
        arms = {name: [] for name in arguments.only}
        for seed in arguments.seeds:  # seed by seed, so that an interrupted run leaves complete comparisons
            for name, curves in arms.items():
                folder = run_arm(ARMS[name], name, seed, arguments.world.resolve(), arguments.runs_dir.resolve())
                curves.append(read_curve(folder))
    proven = [] if arguments.draw else verdicts(arms)
    print(table(arms))
    if free := arms.get("weak"):
        print(f"\n{settings_of_the_stop(free)}\n")
    for verdict in proven:
        print(f"{'holds' if verdict.holds else 'FAILS'}: {verdict.claim}: {verdict.seen}")
    if arguments.json:
        curves = {name: [asdict(curve) | {"gain": curve.gain, "lost": curve.lost} for curve in found] for name, found in arms.items()}
        arguments.json.write_text(json.dumps({"arms": curves, "verdicts": [asdict(verdict) for verdict in proven]}, indent=1) + "\n")
    if arguments.plot:
        draw(arms, arguments.plot)
    sys.exit(not all(verdict.holds for verdict in proven))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("runs/demo/world-0"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--draw", nargs="+", default=[], metavar="NAME=RUN_FOLDER")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
