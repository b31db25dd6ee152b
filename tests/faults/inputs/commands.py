"""Command lines that are wrong as a whole; comparisons, judges, pools, rewards and studies that cannot work."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core.disk import MARKER, mark_complete
from tests.faults.inputs.trial import Expected, Trial
from tests.faults.jobs import BON, JOBS, PPO, RM, study_arguments, world_of
from tests.faults.stage import Stage

R, A, C = Expected.refused, Expected.accepted, Expected.clean

LINES: Mapping[str, tuple[Sequence[str], tuple[str, ...]]] = {
    "no job": ([], ("usage",)),
    "an unknown job": (["train"], ("train", "rm")),
    "a job in capitals": (["RM"], ("RM",)),
    "an unknown key": (["rm", "epochz=2"], ("epochz", "epochs")),
    "an unknown nested key": (["rm", "optim.rate=1"], ("optim.rate",)),
    "a key without its group": (["ppo", "reward.path=x", "lr=1"], ("lr", "optim.lr")),
    "a key of another job": (["rm", "num_batches=3"], ("num_batches",)),
    "no equals sign": (["rm", "epochs"], ("epochs",)),
    "a flag": (["rm", "--epochs", "2"], ("--epochs",)),
    "an open quote": (["rm", "name='a"], ("name",)),
    "an open bracket": (["rm", "data.paths=[a"], ("data.paths",)),
    "an interval": (["rm", "-m", "optim.lr=interval(0,1)"], ("optim.lr",)),
    "several values without -m": (["rm", "epochs=1,2"], ("epochs",)),
    "a value twice in a sweep": (["rm", "-m", "epochs=1,abc"], ("epochs", "abc")),
    "an unknown choice": (["rm", "data=atlass"], ("atlass", "atlas")),
    "an unknown choice in a sweep": (["rm", "-m", "data=atlas,atlass"], ("atlass",)),
    "an interpolation of nothing": (["rm", "name=${nothing}"], ("nothing",)),
    "an environment variable that is not set": (["rm", "name=${oc.env:NOT_SET_AT_ALL}"], ("NOT_SET_AT_ALL",)),
    "a loop of interpolations": (["rm", "name=${study}", "study=${name}"], ("name",)),
    "an experiment of another job": (["ppo", "reward.path=x", "experiment=rb2_rm_grid"], ("experiment",)),
    "an empty key": (["rm", "=3"], ("=3",)),
    "an added key": (["rm", "+nothing=1"], ("nothing",)),
    "compare without results": (["bench", "compare"], ("usage",)),
    "compare with one result": (["bench", "compare", "a.jsonl"], ("usage",)),
    "compare of files that are not there": (["bench", "compare", "given-a.jsonl", "given-b.jsonl"], ("given-a.jsonl",)),
    "compare with an unknown option": (["bench", "compare", "a.jsonl", "b.jsonl", "flip=2"], ("flip",)),
    "compare with flips below zero": (["bench", "compare", "a.jsonl", "b.jsonl", "flips=-2"], ("flips",)),
    "a report of nothing": (["report", "study=nothing"], ("nothing",)),
    "a report of a folder above": (["report", "study=../given"], ("study",)),
    "a study without an experiment": (["study"], ("reward_models",)),
    "an unknown experiment": (["study", "experiment=demoo"], ("demoo",)),
    "a run in a folder above": (["rm", "study=../../given"], ("study",)),
    "a run in no folder": (["rm", "study=..."], ("study",)),
    "a run with an absolute study": (["rm", "study=/tmp/given"], ("study",)),
}
"""Lines of arguments, and words that the message must hold."""

REWARDS: Mapping[str, tuple[Sequence[str], tuple[str, ...]]] = {
    "beta is NaN": (["reward=dpo", "reward.path=@policy", "reward.reference=@policy", "reward.beta=nan"], ("reward.beta",)),
    "beta is 0": (["reward=dpo", "reward.path=@policy", "reward.reference=@policy", "reward.beta=0"], ("reward.beta",)),
    "beta is below 0": (["reward=dpo", "reward.path=@policy", "reward.reference=@policy", "reward.beta=-0.1"], ("reward.beta",)),
    "no reference": (["reward=dpo", "reward.path=@policy"], ("reward.reference",)),
    "a reference that is not there": (["reward=dpo", "reward.path=@policy", "reward.reference=no/given/x"], ("reward.reference",)),
    "an ensemble of one": (["reward=ensemble", "reward.members=[@reward]"], ("reward.members",)),
    "an ensemble of nothing": (["reward=ensemble"], ("reward.members",)),
    "an ensemble with a member that is not there": (["reward=ensemble", "reward.members=[@reward,no/given/x]"], ("reward.members",)),
    "scales of another number": (["reward=ensemble", "reward.members=[@reward,@reward]", "reward.scales=[[0,1]]"], ("reward.scales",)),
    "a scale of zero": (["reward=ensemble", "reward.members=[@reward,@reward]", "reward.scales=[[0,1],[0,0]]"], ("reward.scales",)),
    "a scale of NaN": (["reward=ensemble", "reward.members=[@reward,@reward]", "reward.scales=[[0,1],[nan,1]]"], ("reward.scales",)),
    "a weight of NaN": (
        ["reward=ensemble", "reward.members=[@reward,@reward]", "reward.combine=uncertainty", "reward.weight=nan"],
        ("reward.weight",),
    ),
    "a function that is not there": (["reward=function", "reward.function=no_given:x"], ("no_given",)),
    "no function": (["reward=function"], ("reward.function",)),
    "vLLM without an address": (["reward=vllm", "reward.path=@reward"], ("reward.url",)),
    "vLLM with an address of no scheme": (["reward=vllm", "reward.path=@reward", "reward.url=localhost:1"], ("reward.url",)),
    "vLLM that nobody serves": (["reward=vllm", "reward.path=@reward", "reward.url=http://127.0.0.1:9"], ("127.0.0.1:9",)),
    "a judge without a model": (["reward=judge"], ("reward.judge.model",)),
    "a judge with two models": (["reward=judge", "reward.judge.model=a", "reward.judge.path=@policy"], ("reward.judge.path",)),
    "a judge with an address of no scheme": (["reward=judge", "reward.judge.model=a", "reward.judge.base_url=localhost"], ("base_url",)),
    "a judge with its key as a name": (["reward=judge", "reward.judge.model=a", "reward.judge.api_key_env=sk-123"], ("api_key_env",)),
    "a judge without a key": (["reward=judge", "reward.judge.model=a"], ("OPENAI_API_KEY",)),
    "a judge whose cache is a folder": (["reward=judge", "reward.judge.path=@policy", "reward.judge.cache=."], ("reward.judge.cache",)),
    "an unknown kind": (["reward.kind=oracle"], ("reward.kind",)),
    "an unknown run id": (["reward.path=0a1b2c3d"], ("reward.path",)),
    "a revision of a folder": (["reward.path=@reward", "reward.revision=main"], ("revision",)),
    "a policy as a reward model": (["reward.path=@policy"], ("policies/coast",)),
}
"""Rewards that cannot work, as overrides of `bench`."""


def command_trials(stage: Stage) -> list[Trial]:
    """All of this page."""
    trials = [Trial(name=f"commands/{what}", arguments=_fixed(_whole(stage, line)), words=words) for what, (line, words) in LINES.items()]
    for what, (overrides, words) in REWARDS.items():
        filled = [text.replace("@policy", str(stage.policy)).replace("@reward", str(stage.reward_model)) for text in overrides]
        late = "policy as" in what or "nobody" in what
        trials.append(
            Trial(
                name=f"rewards/{what}", arguments=_fixed(["bench", "runs_dir=runs", f"rows={stage.rows2}", *filled]), words=words, late=late
            )
        )
    return [*trials, *_terms(stage), *_pools(stage), *_studies(stage)]


def _whole(stage: Stage, line: Sequence[str]) -> list[str]:
    """A line of `rm` with what makes it whole but for its fault; others as they are."""
    if line[:1] != ["rm"]:
        return [*line]
    flags = list(line[1:2]) if line[1] == "-m" else []
    return ["rm", *flags, *world_of(stage)[:2], "tracker=files", *RM, *line[1 + len(flags) :]]


def _fixed(arguments: Sequence[str]) -> Callable[[Path], Sequence[str]]:
    return lambda folder: arguments


def _terms(stage: Stage) -> list[Trial]:
    """Several rewards of PPO."""
    base = ["ppo", *world_of(stage), *PPO]
    wrong: dict[str, tuple[list[str], tuple[str, ...]]] = {
        "no settings": (["rewards.given=3"], ("rewards.given",)),
        "an unknown setting": (["rewards.given.pth=x"], ("rewards.given.pth",)),
        "a wrong value": ([f"rewards.given.path={stage.reward_model}", "rewards.given.coefficient=abc"], ("rewards.given",)),
        "a coefficient of NaN": (
            [f"rewards.given.path={stage.reward_model}", "rewards.given.coefficient=nan"],
            ("rewards.given.coefficient",),
        ),
        "a coefficient of 0": ([f"rewards.given.path={stage.reward_model}", "rewards.given.coefficient=0"], ("rewards.given.coefficient",)),
        "the name of the first": ([f"reward.path={stage.reward_model}", f"rewards.reward.path={stage.reward_model}"], ("rewards.reward",)),
        "a path of nothing": (["rewards.given.path=no/such/given"], ("rewards.given.path",)),
        "a verifier of no form": (["rewards.given.kind=verifier", "rewards.given.verifier=x"], ("rewards.given.verifier",)),
        "a judge that ranks": (
            ["rewards.given.kind=judge", f"rewards.given.judge.path={stage.policy}", "rewards.given.judge.mode=rankings"],
            ("rewards.given.judge.mode",),
        ),
        "a beta of NaN": (
            [
                "rewards.given.kind=dpo",
                f"rewards.given.path={stage.policy}",
                f"rewards.given.reference={stage.policy}",
                "rewards.given.beta=nan",
            ],
            ("rewards.given.beta",),
        ),
        "a list": (["rewards=[1]"], ("rewards",)),
    }
    return [Trial(name=f"rewards/several: {what}", arguments=_fixed([*base, *more]), words=words) for what, (more, words) in wrong.items()]


DRAWN, VERIFIED = "drawn/gsm8k/part-00000.parquet", "verified/gsm8k/part-00000.parquet"


def _row(name: str, **changes: object) -> Callable[[Path], object]:
    """Gives the first row of a table of a pool other values."""

    def change(folder: Path) -> None:
        table = pq.read_table(folder / name)
        for key, first in changes.items():
            values = pa.array([first, *table[key].to_pylist()[1:]], from_pandas=False)
            table = table.set_column(table.column_names.index(key), key, values)
        pq.write_table(table, folder / name)

    return change


POOLS: Mapping[str, Callable[[Path], object]] = {
    "not there": shutil.rmtree,
    "empty": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
    "without their manifest": lambda folder: (folder / "pool.json").unlink(),
    "with an empty manifest": lambda folder: (folder / "pool.json").write_text(""),
    "with half a manifest": lambda folder: (folder / "pool.json").write_text('{"tasks": ["gsm'),
    "with a manifest of no tasks": lambda folder: (folder / "pool.json").write_text("{}"),
    "with a manifest of an array": lambda folder: (folder / "pool.json").write_text("[]"),
    "without their rows": lambda folder: (folder / DRAWN).unlink(),
    "without their verdicts": lambda folder: (folder / VERIFIED).unlink(),
    "with no row": lambda folder: (folder / DRAWN).write_text(""),
    "with a line of garbage": lambda folder: (folder / DRAWN).write_text("garbage\n"),
    "with random bytes": lambda folder: (folder / VERIFIED).write_bytes(bytes(range(256))),
    "with a row of no completions": _row(DRAWN, completions=[]),
    "with a completion of None": _row(DRAWN, completions=[None] * 4),
    "with correct of another length": _row(VERIFIED, correct=[1.0]),
    "with correct of NaN": _row(VERIFIED, correct=[float("nan")] * 4),
    "with correct of two": _row(VERIFIED, correct=[2.0] * 4),
    "with a prompt of a number": _row(DRAWN, prompt="5"),
    "with a prompt that is no JSON": _row(DRAWN, prompt="garbage"),
}
"""What is wrong with a folder of pools."""


def _pools(stage: Stage) -> list[Trial]:
    """Pools whose rows are wrong though they are complete, and ones that are incomplete."""

    def arguments(change: Callable[[Path], object], mark: bool) -> Callable[[Path], Sequence[str]]:
        def made(folder: Path) -> Sequence[str]:
            shutil.copytree(stage.pools, folder / "given")
            change(folder / "given")
            if mark and (folder / "given").is_dir():
                (folder / "given" / MARKER).unlink(missing_ok=True)
                mark_complete(folder / "given")
            return ["rm", *world_of(stage), *RM, "hooks.pools=given"]

        return made

    return [
        Trial(name=f"pools/{what}, {'marked' if mark else 'as they are'}", arguments=arguments(change, mark), words=("given",))
        for mark in (False, True)
        for what, change in POOLS.items()
        if not (mark and what in ("not there",))
    ] + [
        Trial(name="pools/marked anew", arguments=arguments(lambda folder: None, True), expected=A),
        Trial(
            name="pools/of other sampling",
            arguments=lambda folder: [
                shutil.copytree(stage.pools, folder / "given"),
                *("bon", *world_of(stage), *BON, "pool.seed=1", "pools=given"),
            ][1:],
            words=("given",),
        ),
    ]


def _studies(stage: Stage) -> list[Trial]:
    """Studies whose lines are wrong."""
    line = "model=coast data=atlas max_length=96 batch_size=8 num_checkpoints=1"
    wrong: dict[str, tuple[list[str], tuple[str, ...]]] = {
        "a name above": (["study=../given"], ("study",)),
        "a name of dots": (["study=.."], ("study",)),
        "an absolute name": (["study=/tmp/given"], ("study",)),
        "a line of no override": (["reward_models=['nonsense']"], ("nonsense",)),
        "a line with an unknown key": ([f"reward_models=['{line} optm.lr=1']"], ("optm.lr",)),
        "a line with a wrong value": ([f"reward_models=['{line} optim.lr=abc']"], ("optim.lr",)),
        "a line with an unknown choice": (["reward_models=['model=coast data=atlaas']"], ("atlaas",)),
        "no lines": (["reward_models=[]"], ("reward_models",)),
        "a line with an open quote": ([f'reward_models=["{line} name=\'a"]'], ("name",)),
        "common with an unknown key": (["common=['epochz=2']"], ("epochz",)),
        "pools with an unknown key": (["pools=['pool.m=4']"], ("pool.m",)),
        "pools of a task that is not there": (["pools=['tasks=gsm8k','tasks.gsm8k.path=no/given.jsonl']"], ("no/given.jsonl",)),
        "PPO with an unknown key": (["ppo.best.overrides=['num_batchez=3']"], ("num_batchez",)),
        "PPO of another lineage": (["ppo.best.reward.lineage=other"], ("ppo.best",)),
        "PPO of an unknown lineage": (["ppo.best.reward.lineage=nonsense"], ("lineage",)),
        "PPO with an unknown pick": (["ppo.best.reward.pick=nonsense"], ("pick",)),
        "parallel below zero": (["parallel=-2"], ("parallel",)),
        "a need that is no key": (["needs=[nonsense]"], ("nonsense",)),
    }

    def arguments(more: Sequence[str]) -> Callable[[Path], Sequence[str]]:
        def made(folder: Path) -> Sequence[str]:
            JOBS["study"].prepare(stage, folder)
            return [*study_arguments(), *more]

        return made

    def experiment(content: str) -> Callable[[Path], Sequence[str]]:
        def made(folder: Path) -> Sequence[str]:
            JOBS["study"].prepare(stage, folder)
            (folder / "mine" / "experiment" / "tiny.yaml").write_text(content)
            return study_arguments()

        return made

    files = {
        "an experiment that is no YAML": ("{[", ("tiny",)),
        "an empty experiment": ("", ("tiny",)),
        "an experiment of an unknown key": ("# @package _global_\nnonsense: 1\n", ("nonsense",)),
        "an experiment of tabs": ("# @package _global_\nstudy:\n\t- a\n", ("tiny",)),
        "an experiment that is a list": ("# @package _global_\n- a\n", ("tiny",)),
    }
    return [Trial(name=f"studies/{what}", arguments=arguments(more), words=words) for what, (more, words) in wrong.items()] + [
        Trial(name=f"studies/{what}", arguments=experiment(content), words=words) for what, (content, words) in files.items()
    ]
