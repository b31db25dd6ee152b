"""The help of a job describes every key from the configuration itself; the command behaves as shells and Hydra's users expect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.compose import ConfigError, composed
from launch.overrides.command_line import parse
from launch.schema import SCHEMAS, BenchJob, PPOJob, RMJob
from launch.terminal.completion import script, words_of
from launch.terminal.help import INTERNAL, groups_of, help_of, sections_of, undescribed

ROOT = Path(__file__).parents[3]
OWN = ["model=custom", "model.path=org/base", "data=custom", "data.paths=pairs.jsonl", "tracker=files"]


def run(*arguments: str, shell: str = "") -> "subprocess.CompletedProcess[str]":
    """The console script, piped into `shell` if that is given."""
    program = f'{sys.executable} -c "from launch.cli import main; main()" {" ".join(arguments)}'
    line = f"set -o pipefail; {program} | {shell}" if shell else program
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_every_key_of_every_job_says_what_it_is() -> None:
    assert undescribed(list(SCHEMAS.values())) == []


def test_the_help_has_defaults_choices_and_units_by_group_and_hides_what_is_internal() -> None:
    said = help_of("ppo")
    assert "  optim.lr=3e-7" in said  # PPO's own, not that of the optimiser
    assert "optim.schedule=linear  [linear|cosine|constant]" in said
    assert "kl.*: Penalty for moving away from the reference policy." in said
    assert "KL in nats per completion that the coefficient adapts to" in said
    assert "rewards.NAME.kind=model" in said
    assert INTERNAL[0] not in said
    assert {"model", "reward", "experiment"} <= groups_of("ppo").keys()
    assert not {"preset", "shared", "schema"} & groups_of("ppo").keys()
    assert max(map(len, said.splitlines())) < 200


def test_the_help_of_a_job_names_the_keys_that_a_run_takes() -> None:
    keys = {key.name for section in sections_of(RMJob) for key in section.keys}
    assert {"data.paths", "data.sources.NAME.path", "hooks.limit", "tracker.mode", "max_length"} <= keys


@pytest.mark.parametrize("arguments", ["-h", "rm --help", "help bon", "rm --cfg job", "completion bash"])
def test_output_that_nobody_reads_ends_without_a_traceback(arguments: str) -> None:
    assert run(*arguments.split(), shell="head -c 1").stderr == ""


def test_the_version_is_that_of_the_package() -> None:
    ended = run("--version")
    assert (ended.returncode, ended.stdout.split()[0]) == (0, "rewardloop")


def test_completion_knows_jobs_keys_and_choices_of_rewardloop_alone(tmp_path: Path) -> None:
    (tmp_path / "completion").write_text(script("bash", {"rm": "", "ppo": ""}), encoding="utf-8")
    asked = """
    ask() { COMP_LINE="$1"; COMP_POINT=${#1}; COMP_WORDS=($1); COMP_CWORD=$2; _rewardloop; echo "${COMPREPLY[*]}"; }
    ask "rewardloop p" 1; ask "rewardloop rm optim.sched" 2; ask "rewardloop rm engine=f" 4; complete -p rm
    """
    said = subprocess.run(["bash", "-c", f"source {tmp_path}/completion\n{asked}"], capture_output=True, text=True, timeout=60)
    jobs, keys, choices = said.stdout.splitlines()
    assert jobs == "ppo"
    assert keys == "optim.schedule=linear optim.schedule=cosine optim.schedule=constant"
    assert choices == "fsdp2"  # readline replaces what stands behind the = alone
    assert "rm: no completion" in said.stderr
    assert {"data.paths=", "dry_run=true"} <= set(words_of("rm"))
    with pytest.raises(ValueError, match="choose bash or zsh"):
        script("tcsh", {})
    with pytest.raises(ValueError, match=r"rewardloop completion bash"):
        parse(RMJob, ["--shell-completion", "install=bash"])


@pytest.mark.parametrize(("text", "epochs"), [("epochs: 3\noptim: {lr: 1e-4}\n", 3), ("defaults: [rm, _self_]\nepochs: 4\n", 4)])
def test_a_file_of_the_user_s_is_laid_over_the_job_s_own(tmp_path: Path, text: str, epochs: int) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    line = parse(RMJob, ["--config-dir", str(tmp_path), "--config-name", "mine", *OWN, "seed=7"])
    job = composed(RMJob, line.overrides).job
    assert (job.epochs, job.seed, job.model.path) == (epochs, 7, "org/base")
    assert job.batch_size == RMJob.batch_size  # the defaults of the job are still there


def test_a_file_of_the_user_s_that_does_not_fit_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no other.yaml; the files there: none"):
        parse(RMJob, ["--config-dir", str(tmp_path), "--config-name", "other"])
    with pytest.raises(ValueError, match="needs the folder of that file: --config-dir DIR --config-name mine"):
        parse(RMJob, ["--config-name", "mine"])
    for text, words in (("defaults: [ppo]\n", "begin them with - rm"), ("- a\n", "holds no settings"), ("epoch: 3\n", "epoch")):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(ConfigError, match=words):
            composed(RMJob, parse(RMJob, ["--config-dir", str(tmp_path), "--config-name", "mine", *OWN]).overrides)


def test_one_value_for_a_list_is_a_list_of_it() -> None:
    assert composed(RMJob, OWN).job.data.paths == ["pairs.jsonl"]
    assert composed(RMJob, [*OWN, "data.paths='a b, c.jsonl'"]).job.data.paths == ["a b, c.jsonl"]
    job = composed(PPOJob, ["reward.path=x", "prompts=1e3", "hooks.best_of=4", "lora.targets=q_proj", "lora.rank=4"]).job
    assert (job.prompts, job.hooks.best_of, job.lora.targets) == (["1e3"], [4], ["q_proj"])
    assert composed(BenchJob, ["reward=ensemble", "reward.members=[a,b]"]).job.reward.members == ["a", "b"]
