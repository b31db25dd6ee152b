"""The console script `rewardloop`."""

import importlib
import io
import sys
from importlib.metadata import version

from core.process.exit import ending_with_a_closed_pipe
from core.process.signals import stop_at_once

JOBS = {
    "rm": "fit a Bradley-Terry reward model, with RewardBench 2 and best-of-N at every checkpoint",
    "ppo": "train a policy against a reward model, with downstream tasks at every checkpoint",
    "bon": "sample pools of completions once and rerank them with reward models",
    "bench": "score a reward model, a judge or saved scores on RewardBench 2 or 1; compare two results",
    "study": "run a sweep of reward models, best-of-N and PPO, and report how the benchmark relates to use",
    "report": "draw the report of finished runs: those of a study, or any others",
    "runs": "list runs, with their status, scores, age and size",
    "show": "say what one run was, and what came of it",
    "rerun": "start the job of a run once more, with other settings",
    "publish": "bring the reward models of a sweep to the hub, with one model card",
}

_MODULES = {"runs": "history.listing", "show": "history.one", "rerun": "history.rerun", "publish": "publish.command"}
"""Where a job's module is not called like the job."""

HELP = f"""rewardloop trains reward models and policies, and benchmarks them while they train.

usage: rewardloop JOB [key=value ...]

jobs:
{chr(10).join(f"  {name:<8}{what}" for name, what in JOBS.items())}

examples:
  rewardloop study experiment=demo                        the whole loop on two CPU cores, in minutes
  rewardloop rm data=union optim.lr=1e-3 epochs=2         one reward model
  rewardloop rm -m data=atlas,harbor optim.lr=1e-3,1e-4   a sweep of four
  rewardloop ppo reward.path=runs/demo/rm-...             a policy against one of them
  rewardloop bench reward.path=FOLDER rows=FILE           RewardBench 2 of one; `bench compare A B` of two
  rewardloop rm model=custom model.path=FOLDER data=custom 'data.paths=[pairs.jsonl]'

`rewardloop JOB --help` describes every group and key of a job; `rewardloop JOB --cfg job` prints its configuration;
`rewardloop JOB ... dry_run=true` says what would be done; `rewardloop --version`. Completion of jobs and keys:
eval "$(rewardloop completion bash)".
Runs lie in runs/<study>/<job>-<name>-<hash>/. The same settings lead to the same folder: a finished run is skipped,
a torn one continued. Set REWARDLOOP_TRACE=1 to see the traceback of a failure."""


def main() -> None:
    """Hands the command line to the job that it names."""
    stop_at_once()
    print_in_any_encoding()
    with ending_with_a_closed_pipe():
        _run(sys.argv[1:])


def print_in_any_encoding() -> None:
    """Where standard output cannot hold a character, as under LC_ALL=C, it holds `?` instead: no result is lost over a sign."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _run(arguments: list[str]) -> None:
    name, *rest = arguments or [""]
    if name in ("", "--help", "-h", "help") and not (name == "help" and rest):
        print(HELP)
        raise SystemExit(0 if name else 2)
    if name == "help":
        name, rest = rest[0], ["--help"]
    if name in ("--version", "-V", "version"):
        print(f"rewardloop {version('rewardloop')}")
        return
    if name == "completion":
        _print_completion(rest)
        return
    if name not in JOBS:
        print(f"rewardloop: there is no job {name!r}; choose one of {', '.join(JOBS)}. See `rewardloop --help`.", file=sys.stderr)
        raise SystemExit(2)
    sys.argv = [f"rewardloop {name}", *rest]
    importlib.import_module(f"launch.{_MODULES.get(name, name)}").main()


def _print_completion(shells: list[str]) -> None:
    from launch.terminal.completion import script  # the keys of all jobs, which no other command needs

    try:
        print(script(" ".join(shells) or "bash", JOBS), end="")
    except ValueError as error:
        print(f"rewardloop completion: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
