"""The parts of a study of real models: what each job is, what it waits for, what can be left out, and what is taken as it is."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.disk import write_json
from core.progress import NoProgress
from launch.compose import command, composed
from launch.identity import unhashed_keys
from launch.overrides.differences import settings_of
from launch.overrides.grammar import quoted
from launch.parallel import processes
from launch.parallel.processes import run_in_processes
from launch.parallel.scheduler import Job
from launch.schema import BoNJob, PPOJob, RMJob, StudyJob
from launch.studies.parts import in_processes
from launch.studies.plan import plan

FEW = (
    "reward_models=['experiment=rb2_rm_grid model=tulu_8b_sft data=tulu epochs=1']",
    "policies=['experiment=rb2_ppo experiment/rb2_ppo_reward=rm01,rm13']",
)
"""Three reward models and two policies of the paper's."""


def jobs_of(*overrides: str, folder: Path = Path("runs/rb2")) -> dict[str, Job]:
    study = composed(StudyJob, ["experiment=rb2", *overrides]).job
    return {job.key: job for job in plan(study, folder, check=False).jobs}


def kinds(jobs: dict[str, Job]) -> dict[str, int]:
    return dict(Counter(key.partition("-")[0] for key in jobs))


def counting(job: Any) -> dict[str, object]:
    """The settings of a job that determine its result."""
    left_out = unhashed_keys(job)
    return {
        key: setting.value
        for key, setting in settings_of(job).items()
        if not any(key == other or key.startswith(f"{other}.") for other in left_out)
    }


@pytest.fixture(scope="module")
def paper() -> dict[str, Job]:
    return jobs_of()


def test_the_paper_is_its_reward_models_pools_reranking_benchmarks_and_22_policies(paper: dict[str, Job]) -> None:
    # 90 of the grid, 18 flipped, 12 on the pretrained models, 5 of three epochs, 4 of 70B.
    assert kinds(paper) == {"pools": 1, "rm": 129, "bon": 129 + 17, "bench": 17, "ppo": 22}
    assert paper["bon-rm-01"].after == ("rm-01", "pools")
    assert paper["rm-01"].after == paper["pools"].after == paper["ppo-rm01"].after == ()
    assert paper["bench-llama-3.1-8b-instruct-rm-rb2"].what == "allenai/Llama-3.1-8B-Instruct-RM-RB2"
    assert paper["bon-bench-llama-3.1-8b-instruct-rm-rb2"].after == ("bench-llama-3.1-8b-instruct-rm-rb2", "pools")
    assert paper["ppo-rm13-low-kl"].what == "Llama-3.1-Tulu-3-8B-SFT by Llama-3.1-8B-Instruct-RM-RB2, kl.beta 0.0325"


def test_its_bases_are_those_of_table_5_and_only_llama_base_is_given_a_template(paper: dict[str, Job]) -> None:
    models = [job.settings for job in paper.values() if isinstance(job.settings, RMJob)]
    bases = {model.model.path: bool(model.model.chat_template) for model in models}
    assert bases["meta-llama/Llama-3.1-8B"]
    assert [path for path, given in bases.items() if given] == ["meta-llama/Llama-3.1-8B"]
    assert {"Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct", "allenai/Llama-3.1-Tulu-3-8B", "meta-llama/Llama-3.1-70B-Instruct"} <= set(bases)
    assert {model.epochs for model in models} == {1, 2, 3}


def test_its_jobs_are_the_runs_of_the_commands_that_do_each_part_alone(paper: dict[str, Job]) -> None:
    grid = command(RMJob, ["experiment=rb2_rm_grid"], multirun=True).jobs
    for number in (1, 90):
        task = paper[f"rm-{number:02d}"].task({})
        assert isinstance(task, partial)
        assert (task.func, task.args[0], task.args[2]) == (in_processes, "rm", 8)
        assert counting(composed(RMJob, task.args[1]).job) == counting(grid[number - 1])
    policies = command(PPOJob, ["experiment=rb2_ppo"], multirun=True).jobs
    task = paper["ppo-rm17"].task({})
    assert isinstance(task, partial)
    assert counting(composed(PPOJob, task.args[1]).job) == counting(next(job for job in policies if job.name == "rm17"))
    task = paper["bon-rm-01"].task({"rm-01": {"dir": "runs/rb2/rm's", "job": "rm"}})
    assert isinstance(task, partial)
    job = composed(BoNJob, task.args[1]).job
    assert (job.rewards, job.pools, len(job.tasks), job.pool.n) == (["runs/rb2/rm's"], "runs/rb2/pools", 7, 16)


def test_a_part_can_be_left_out() -> None:
    assert kinds(jobs_of(*FEW)) == {"pools": 1, "rm": 3, "bon": 5, "bench": 2, "ppo": 2}
    assert kinds(jobs_of(*FEW, "parts=[rm]")) == {"rm": 3}
    assert kinds(jobs_of(*FEW, "parts=[rm,bon]")) == {"pools": 1, "rm": 3, "bon": 3}
    assert kinds(jobs_of(*FEW, "parts=[ppo]")) == {"bench": 2, "ppo": 2}
    with pytest.raises(ValueError, match=r"parts=\[\] must name each part once: some of rm, bon, ppo"):
        composed(StudyJob, ["experiment=rb2", "parts=[]"])


def test_without_training_the_finished_reward_models_of_the_folder_are_taken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no finished one; add rm to the parts"):
        jobs_of("policies=[]", "parts=[bon]", folder=tmp_path)
    with pytest.raises(ValueError, match=r"holds no finished one; add rm to the parts"):
        jobs_of("parts=[bon]", folder=tmp_path)  # the policies, which have reward models of others, are no part of it
    for status in ("finished", "running"):
        run = tmp_path / f"rm-{status}-00000000"
        write_json(run / "record.json", {"id": status, "job": "rm", "identity": {}, "status": status})
        (run / "config.yaml").write_text("model: {path: org/base}\ndata: {name: mine, paths: [a.jsonl]}\n")
    jobs = jobs_of("parts=[bon]", "reward_models=[]", folder=tmp_path)
    assert list(jobs) == ["pools", "rm-01", "bon-rm-01"]
    assert jobs["rm-01"].what == "base on mine, lr 3e-06, epochs 1, trained already"
    task = jobs["rm-01"].task({})
    assert isinstance(task, partial)
    assert task.args == (f"{tmp_path}/rm-finished-00000000",)


def test_without_training_a_reward_model_keeps_the_key_of_its_line(tmp_path: Path) -> None:
    line = "reward_models=['model=custom model.path=org/base data=custom data.paths=[a.jsonl] optim.lr=1e-3,1e-4,1e-5']"
    for rate, when in ((1e-4, "2026-01-01"), (1e-4, "2026-01-02"), (1e-3, "2026-01-03"), (0.5, "2026-01-04")):
        run = tmp_path / f"rm-{rate}-{when}"
        write_json(run / "record.json", {"id": when, "job": "rm", "identity": {}, "status": "finished", "finished": when})
        (run / "config.yaml").write_text(f"model: {{path: org/base}}\ndata: {{name: custom, paths: [a.jsonl]}}\noptim: {{lr: {rate}}}\n")
    policy = "policies=['experiment=rb2_ppo experiment/rb2_ppo_reward=rm01 reward.path=rm-0{} name=own']"
    jobs = jobs_of(line, policy.format(2), "parts=[ppo]", folder=tmp_path)
    # No run has the third line's rate. The newer one of the second line's, on other data, is that line's; the rest follows.
    places = {key: Path(task.args[0]).name for key in jobs if isinstance(task := jobs[key].task({}) if key[:2] == "rm" else None, partial)}
    assert places == {
        "rm-01": "rm-0.001-2026-01-03",
        "rm-02": "rm-0.0001-2026-01-02",
        "rm-04": "rm-0.5-2026-01-04",
        "rm-05": "rm-0.0001-2026-01-01",
    }
    assert jobs["ppo-own"].after == ("rm-02",)
    said = r"policies: reward\.path=rm-03 is no reward model of the study, which has rm-01, rm-02, rm-04, rm-05; .*add rm to the parts"
    with pytest.raises(ValueError, match=said):
        jobs_of(line, policy.format(3), "parts=[ppo]", folder=tmp_path)


def test_a_policy_may_name_a_reward_model_of_the_study_by_its_job(tmp_path: Path) -> None:
    jobs = jobs_of(FEW[0], "policies=['experiment=rb2_ppo experiment/rb2_ppo_reward=rm01 reward.path=rm-03 name=own']")
    assert kinds(jobs) == {"pools": 1, "rm": 3, "bon": 3, "ppo": 1}
    assert jobs["ppo-own"].after == ("rm-03",)
    task = jobs["ppo-own"].task({"rm-03": {"dir": str(tmp_path)}})
    assert isinstance(task, partial)
    assert composed(PPOJob, task.args[1]).job.reward.path == str(tmp_path)


def test_several_rewards_of_a_policy_may_be_reward_models_of_the_study() -> None:
    two = "policies=['experiment=rb2_ppo experiment/rb2_ppo_reward=rm01 reward.path=rm-03 +rewards.other.path=rm-01 name=own']"
    jobs = jobs_of(FEW[0], two)
    assert jobs["ppo-own"].after == ("rm-03", "rm-01")
    task = jobs["ppo-own"].task({"rm-01": {"dir": "runs/one"}, "rm-03": {"dir": "runs/three"}})
    assert isinstance(task, partial)
    terms = composed(PPOJob, task.args[1]).job.terms
    assert {name: term.path for name, term in terms.items()} == {"reward": "runs/three", "other": "runs/one"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["processes=1"], "engine=fsdp2 does not work with processes=1 of the study; give processes=N"),
        (["processes=0"], "processes"),
        (["processes=3"], "batch_size=.* cannot be divided evenly among 3 processes; choose a multiple"),
        (["pools=['experiment=rb2_bon', 'rewards=[x]']"], "pools names rewards"),
        (["policies=['experiment=rb2_ppo experiment/rb2_ppo_reward=rm01,rm02 name=a']"], "two jobs of the study would be called ppo-a"),
        (["reward_models=['experiment=rb2_rm_grid model=llama_8b_bse']"], "llama_8b_bse"),
        (
            ["policies=['experiment=rb2_ppo experiment/rb2_ppo_reward=rm01 reward.path=rm-09']"],
            r"rm-09 is no .* rm-01, rm-02, rm-03; choose",
        ),
        (["policies=['reward.among=[rb2]']"], r"policies: reward\.among chooses when the run starts.*name one by reward\.path"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(overrides: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        jobs_of(*FEW, *overrides)


def test_a_job_of_several_processes_that_fails_says_why(tmp_path: Path) -> None:
    overrides = ["model=custom", f"model.path={quoted(str(tmp_path / 'nowhere'))}", f"runs_dir={quoted(str(tmp_path))}", "data=custom"]
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with (tmp_path / "log").open("w") as log, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", log)
        with pytest.raises(RuntimeError, match=r"nowhere does not exist; give the folder of a saved model"):
            run_in_processes("rm", [*overrides, f"data.paths=[{quoted(str(tmp_path / 'pairs.jsonl'))}]"], 2, NoProgress())
    assert "nowhere does not exist" in (tmp_path / "log").read_text()


def test_a_process_that_is_killed_is_named_and_not_those_that_it_left_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = ["import time; time.sleep(60)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]

    def started(arguments: Sequence[str], count: int, writer: int) -> "list[subprocess.Popen[bytes]]":
        return [subprocess.Popen([sys.executable, "-c", program], pass_fds=[writer]) for program in programs]

    monkeypatch.setattr(processes, "_started", started)
    monkeypatch.setattr(processes, "PATIENCE_S", 0.2)
    with pytest.raises(RuntimeError, match=r"^process 1 was killed by SIGKILL, as the system does when memory runs out: lower processes"):
        run_in_processes("rm", [], 2, NoProgress())
