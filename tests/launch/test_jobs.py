"""`rewardloop rm`, `ppo`, `bon` and `report` in seconds: what a run keeps, when it is done again, and what is refused."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.disk import write_json
from core.engines.resume import STATE, resumable_steps
from core.hooks.hook import Hook, read_evaluation
from core.progress import NoProgress
from core.records import AXIS, CheckpointSaved
from core.runs.checkpoints import complete_steps, step_folder
from core.runs.record import read_record
from core.runs.tracking import read_metrics
from evalhooks.checkpoints.policy import PolicyHook
from evalhooks.checkpoints.reward_model import RewardModelHook
from evalhooks.report.summary import read_summary
from launch import bon, ppo, report, rm
from launch.entry import composed
from launch.inputs import BoNResult
from launch.jobs.report import build
from launch.overrides.grammar import quoted
from launch.schema import BoNJob, PPOJob, RMJob
from microworld.config import WorldConfig
from microworld.world import build_world

# One task, whose verifier finds about every second random text correct.
TASK = (
    *("tasks=gsm8k", "tasks.gsm8k.path=${world}/tasks/facts.jsonl", "tasks.gsm8k.prompt_key=prompt"),
    f"tasks.gsm8k.verifier={__name__}:even",
)
RM = ("data=atlas", "max_length=96", "batch_size=8", "num_checkpoints=2", "hooks.best_of=[2]")
PPO = (
    *TASK,
    *("num_batches=2", "num_checkpoints=2", "batch_size=8", "minibatch_size=8", "micro_batch_size=8", "max_new_tokens=4"),
    *("best_metric=downstream/gsm8k", "hooks.downstream.n=2", "hooks.downstream.max_new_tokens=4"),
)
BON = (*TASK, "pool.n=4", "pool.max_new_tokens=4", "best_of=[1,2]")


def even(completion: str, reference: Mapping[str, Any]) -> float:
    """A verifier: 1 for an even number of characters."""
    return float(len(completion) % 2 == 0)


def world_of(folder: Path, runs: str = "runs") -> list[str]:
    return [f"world={folder}/world", f"runs_dir={folder}/{runs}", "study=tiny", "tracker=files"]


def run_rm(folder: Path, *overrides: str, runs: str = "runs") -> dict[str, Any]:
    return rm.run(composed(RMJob, [*world_of(folder, runs), *RM, *overrides]), NoProgress())


def run_ppo(folder: Path, reward: str, *overrides: str, runs: str = "runs") -> dict[str, Any]:
    return ppo.run(composed(PPOJob, [*world_of(folder, runs), *PPO, f"reward.path={reward}", *overrides]), NoProgress())


def run_bon(folder: Path, *overrides: str) -> BoNResult:
    return bon.result_of(bon.run(composed(BoNJob, [*world_of(folder), *BON, *overrides]), NoProgress()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A folder with a world and the runs made of it, and what each job returned. Read only."""

    folder: Path
    pools: BoNResult
    rm: Mapping[str, Any]
    ppo: Mapping[str, Any]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Study:
    """Pools, a reward model that is measured on them, and a policy trained by it; all start from one random model."""
    folder = tmp_path_factory.mktemp("jobs")
    world = build_world(WorldConfig(corpus_size=40, pairs=32, benchmark_rows=2, task_rows=4, vocab_size=300), folder / "world")
    policy.save_pretrained(world / "policies" / "coast")
    tokenizer.save_pretrained(world / "policies" / "coast")
    pools, model = run_bon(folder), run_rm(folder)
    return Study(folder=folder, pools=pools, rm=model, ppo=run_ppo(folder, model["dir"]))


def files_of(folder: Path) -> dict[str, int]:
    """When each file below a folder was last written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def fail_once(monkeypatch: pytest.MonkeyPatch, hook: type[Hook], step: int) -> None:
    """Has the first checkpoint of `step` fail in its hooks."""
    measure, failed = hook.on_checkpoint, list[int]()

    def on_checkpoint(self: Any, event: CheckpointSaved) -> Mapping[str, float]:
        if event.step == step and not failed:
            failed.append(step)
            raise RuntimeError("the machine went away")
        return measure(self, event)

    monkeypatch.setattr(hook, "on_checkpoint", on_checkpoint)


# rm


def test_a_reward_model_leaves_two_checkpoints_and_a_record_of_its_data_and_scores(study: Study) -> None:
    folder, record = Path(study.rm["dir"]), study.rm
    assert (record["job"], record["name"], record["status"]) == ("rm", "coast-atlas-lr1e-3-e1", "finished")
    # Four of the 32 pairs are longer than 96 tokens, and 28 make four batches of up to eight.
    assert (record["num_pairs"], record["num_dropped_pairs"], record["step"]) == (28, 4, 4)
    assert record["lineage"]["data"] == "atlas"
    assert record["data"]["training"] == 32
    assert complete_steps(folder) == [2, 4]
    assert resumable_steps(folder) == []
    logged = read_metrics(folder / "metrics.jsonl", axis=AXIS)
    assert {step: read_evaluation(folder, step) for step in (2, 4)} == {2: {AXIS: 2, **logged[2]}, 4: {AXIS: 4, **logged[4]}}
    assert record["final"] == {AXIS: 4, **logged[4]}
    assert record["best_step"] == max((2, 4), key=lambda step: (logged[step]["rewardbench2/overall"], -step))
    assert record["final"]["bon/gsm8k@2"] == record["final"]["bon/average@2"] > 0
    assert "world: " in (folder / "config.yaml").read_text()


def test_a_finished_reward_model_is_left_alone_but_for_states_that_nobody_needs(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(study.rm["dir"])
    before = files_of(folder)
    (step_folder(folder, 2) / STATE).mkdir()  # as a process leaves it that is killed at the very end
    monkeypatch.setattr(rm, "rm_inputs", None)  # not even its data are read
    assert run_rm(study.folder) == study.rm
    assert files_of(folder) == before
    assert resumable_steps(folder) == []
    assert capsys.readouterr().err == f"{folder} is finished already\n"


def test_a_reward_model_whose_hooks_failed_goes_on_to_the_same_end(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_once(monkeypatch, RewardModelHook, 2)
    with pytest.raises(RuntimeError, match="the machine went away"):
        run_rm(study.folder, runs="torn")
    [folder] = (study.folder / "torn" / "tiny").glob("rm-*")
    torn = read_record(folder)
    assert (torn["status"], torn["error"]) == ("failed", "RuntimeError: the machine went away")
    record = run_rm(study.folder, runs="torn")
    assert f"resuming {folder.name} from step-000002" in capsys.readouterr().out
    assert (record["dir"], record["status"], record["started"]) == (str(folder), "finished", torn["started"])
    assert "error" not in record
    assert record["final"] == study.rm["final"]
    assert record["best"] == study.rm["best"]


def test_a_reward_model_is_refused_before_its_run_begins(study: Study, tmp_path: Path) -> None:
    empty = tmp_path / "pools"
    empty.mkdir()
    (empty / "gsm8k.jsonl").touch()  # as a process leaves it that is killed while it draws
    with pytest.raises(ValueError, match=f"{empty} holds no complete pools; make them with `rewardloop bon pools={empty}"):
        run_rm(study.folder, f"hooks.pools={empty}", runs="refused")
    with pytest.raises(ValueError, match=r"no/data\.jsonl"):
        run_rm(study.folder, "data=custom", "data.paths=[no/data.jsonl]", runs="refused")
    with pytest.raises(ValueError, match=r"engine=ddp does not .* 1 process"):
        run_rm(study.folder, "engine=ddp", runs="refused")
    assert not (study.folder / "refused").exists()


def test_a_reward_model_goes_on_in_smaller_passes_after_it_ran_out_of_memory(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_once(monkeypatch, RewardModelHook, 2)
    with pytest.raises(RuntimeError, match="the machine went away"):
        run_rm(study.folder, runs="smaller")
    record = run_rm(study.folder, "micro_batch_tokens=128", "hooks.batch_tokens=512", "gradient_checkpointing=true", runs="smaller")
    assert (record["status"], record["id"]) == ("finished", study.rm["id"])
    said = "micro_batch_tokens=128 (8192 before), gradient_checkpointing=True (False before), hooks.batch_tokens=512 (16384 before)"
    assert f"{record['dir']} goes on with " in (err := capsys.readouterr().err)
    assert all(change in err for change in said.split(", "))
    assert record["final"]["rewardbench2/overall"] == pytest.approx(study.rm["final"]["rewardbench2/overall"])


@pytest.mark.parametrize("pools", ["empty", "gone"])
def test_a_reward_model_without_the_pools_of_its_hooks_is_refused_by_their_key(study: Study, tmp_path: Path, pools: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"hooks\.pools={tmp_path}/{pools} holds no complete pools; make them with `rewardloop bon"):
        run_rm(study.folder, f"hooks.pools={tmp_path}/{pools}", runs="refused")
    with pytest.raises(FileNotFoundError, match=rf"hooks\.pools={tmp_path}/{pools}: "):
        run_rm(study.folder, f"hooks.pools={tmp_path}/{pools}")  # beside a run that might be the same
    assert not (study.folder / "refused").exists()


# ppo


def test_a_policy_leaves_its_checkpoints_its_course_and_where_its_reward_came_from(study: Study) -> None:
    folder, record = Path(study.ppo["dir"]), study.ppo
    assert (record["job"], record["name"], record["status"]) == ("ppo", f"coast-by-{study.rm['name']}", "finished")
    assert record["lineage"]["reward_run"] == study.rm["id"]
    assert record["lineage"]["same_lineage"] == record["lineage"]["in_distribution"] == "yes"
    assert (record["last_step"], complete_steps(folder), resumable_steps(folder)) == (2, [1, 2], [])
    course = {step: read_evaluation(folder, step)["downstream/gsm8k"] for step in (0, 1, 2)}
    best = max(course, key=lambda step: (course[step], -step))
    assert (record["best_step"], record["best"]) == (best, {"downstream/gsm8k": course[best]})
    assert 0 < course[best] < 1
    # A reward does not change: its benchmark is scored once, and stands beside every checkpoint.
    static = json.loads((folder / "static.json").read_text())
    assert read_evaluation(folder, 2).items() >= static.items()
    assert static
    assert (folder / "over_optimisation.png").is_file()


def test_a_finished_policy_is_left_alone_but_for_a_picture_that_is_missing(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(study.ppo["dir"])
    before = files_of(folder)
    (folder / "over_optimisation.png").unlink()
    assert run_ppo(study.folder, study.rm["dir"]) == study.ppo
    after = files_of(folder)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"over_optimisation.png"}
    assert capsys.readouterr().err == f"{folder} is finished already\n"


def test_a_policy_whose_hooks_failed_goes_on_to_the_same_end(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_once(monkeypatch, PolicyHook, 1)
    with pytest.raises(RuntimeError, match="the machine went away"):
        run_ppo(study.folder, study.rm["dir"], runs="torn")
    record = run_ppo(study.folder, study.rm["dir"], runs="torn")
    folder = Path(record["dir"])
    assert f"resuming {folder.name} from step-000001" in capsys.readouterr().out
    assert (record["status"], record["best_step"], record["best"]) == ("finished", study.ppo["best_step"], study.ppo["best"])
    ours, whole = (read_metrics(Path(run["dir"]) / "metrics.jsonl", axis="train/step")[2] for run in (record, study.ppo))
    assert ours["train/kl"] == whole["train/kl"] != 0
    assert ours["train/rm_score"] == whole["train/rm_score"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["best_metric=downstream/gsm9k"], r"is not measured; choose one of downstream/average, downstream/gsm8k, or rm_score\."),
        (["tasks=none"], r"best_metric=downstream/gsm8k needs a task, and there is none"),
        (["prompts=[no/prompts.jsonl]"], r"no/prompts\.jsonl"),
        (["reward.path=no/model/here"], "reward.path=no/model/here does not exist"),
        (["algo=rloo", "entropy_coef=0.1"], "entropy_coef"),
    ],
)
def test_a_policy_is_refused_before_its_run_begins(study: Study, overrides: list[str], words: str) -> None:
    if overrides == ["tasks=none"]:
        chosen = [override for override in PPO if not override.startswith("tasks")] + overrides
        with pytest.raises(ValueError, match=words):
            ppo.run(composed(PPOJob, [*world_of(study.folder, "refused"), *chosen, f"reward.path={study.rm['dir']}"]), NoProgress())
    else:
        with pytest.raises(ValueError, match=words):
            run_ppo(study.folder, study.rm["dir"], *overrides, runs="refused")
    assert not (study.folder / "refused").exists()


# bon


def test_pools_are_made_once_and_reranked_by_a_run_as_its_own_hooks_did(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(Path(study.pools.dir))
    assert study.pools.dir == f"{study.folder}/world/pools"
    assert (study.pools.n, study.pools.rewards) == (4, {})
    assert 0 < study.pools.bounds["random"]["gsm8k"] < study.pools.bounds["oracle"]["gsm8k"] <= 1
    again = run_bon(study.folder, f"rewards=[{study.rm['dir']}]")
    assert files_of(Path(study.pools.dir)) == before
    assert again.bounds == study.pools.bounds
    [found] = again.rewards.values()
    assert found.keys() == {f"bon/{task}@{n}" for task in ("gsm8k", "average") for n in (1, 2)}
    assert found["bon/gsm8k@1"] == pytest.approx(study.pools.bounds["random"]["gsm8k"])  # the best of one is a random one
    assert found["bon/gsm8k@2"] == pytest.approx(study.rm["final"]["bon/gsm8k@2"])


def test_best_of_n_is_refused_before_a_model_is_loaded(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    for overrides, words in (
        (["best_of=[1,8]"], r"best_of=\[1, 8\] must lie between 1 and pool\.n=4\."),
        (["best_of=[]"], r"best_of=\[\] must lie between"),
    ):
        with pytest.raises(ValueError, match=words):
            run_bon(study.folder, f"rewards=[{study.rm['dir']}]", *overrides)
    with pytest.raises(ValueError, match="tasks is empty; choose some"):
        bon.run(composed(BoNJob, [*world_of(study.folder), "tasks=none", "pools=''"]), NoProgress())
    with pytest.raises(ValueError, match="no/reward"):
        run_bon(study.folder, "rewards=[no/reward]")


def test_best_of_n_chooses_among_as_many_as_there_are_and_says_in_a_dry_run_what_it_lacks(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert composed(BoNJob, ["pool.n=4"]).job.sizes == [1, 2, 4]
    assert composed(BoNJob, ["pool.n=12"]).job.sizes == [1, 2, 4, 8, 12]
    assert composed(BoNJob, ["pool.n=32"]).job.sizes == [1, 2, 4, 8, 16]
    monkeypatch.setattr("sys.argv", ["rewardloop", "tasks=none", "pools=''", "dry_run=true", f"world={study.folder}/world"])
    bon.main()
    told = capsys.readouterr().out
    assert "note: tasks is empty; choose some" in told
    assert told.count("tasks is empty") == 1
    assert "0 answers" not in told


def test_pools_that_are_there_need_no_policy(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.jobs.bon.load_policy", None)
    assert run_bon(study.folder, "best_of=[1]").bounds == study.pools.bounds


def test_pools_of_other_sampling_are_not_taken_for_the_ones_that_are_asked_for(study: Study) -> None:
    with pytest.raises(ValueError, match=r"pools of another policy, .*: sampling\.seed is 0 there and 1 here\. Delete .*pools=OTHER"):
        run_bon(study.folder, "pool.seed=1")


# report


@pytest.fixture
def reported(study: Study, tmp_path: Path) -> Path:
    """The folder of a study of its own with a report."""
    folder = tmp_path / "runs" / "tiny"
    shutil.copytree(study.folder / "runs" / "tiny", folder)
    records = [{**record, "dir": str(folder / Path(record["dir"]).name)} for record in (study.rm, study.ppo)]
    build(study="tiny", folder=folder, records=records, pools=Path(study.pools.dir), wall_s=5.0, notes=["Seen twice."])
    return folder


def redraw(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["rewardloop", f"runs_dir={folder.parent}", f"study={quoted(folder.name)}"])
    report.main()


@pytest.mark.usefixtures("alone")
def test_a_report_is_drawn_anew_from_the_runs_with_what_only_the_study_knew(
    reported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = reported / "report" / "report.html"
    drawn, before = page.read_text(), read_summary(reported / "report")
    page.unlink()
    redraw(reported, monkeypatch)
    assert page.read_text() == drawn
    assert read_summary(reported / "report") == before
    assert (before["wall_s"], before["notes"]) == (5.0, ["Seen twice."])
    assert capsys.readouterr().out.strip().splitlines()[-1].endswith("report.html")


@pytest.mark.usefixtures("alone")
def test_a_policy_in_training_takes_part_in_a_report_and_a_reward_model_does_not(reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in reported.glob("*/record.json"):
        write_json(file, {**json.loads(file.read_text()), "status": "running"})
    [policy] = reported.glob("ppo-*")
    (policy / "evals" / "step-000002.json").unlink()
    redraw(reported, monkeypatch)
    summary = read_summary(reported / "report")
    assert summary["reward_models"] == []
    assert [[checkpoint["step"] for checkpoint in run["checkpoints"]] for run in summary["ppo"]] == [[0, 1]]


@pytest.mark.usefixtures("alone")
def test_a_report_leaves_out_what_cannot_be_read_with_a_line(
    reported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [policy], [model] = reported.glob("ppo-*"), reported.glob("rm-*")
    (policy / "record.json").write_text("")
    (model / "evals" / "step-000002.json").write_text('{"rewardbench2/overall": 0.')
    redraw(reported, monkeypatch)
    summary, said = read_summary(reported / "report"), capsys.readouterr().out
    assert summary["ppo"] == []
    assert [[checkpoint["step"] for checkpoint in run["checkpoints"]] for run in summary["reward_models"]] == [[4]]
    assert f"skipping {policy.name}: {policy}/record.json is empty; the command that made the run mends it" in said
    assert f"skipping step 2 of {model.name}: {model}/evals/step-000002.json is no JSON" in said


@pytest.mark.usefixtures("alone")
def test_a_report_is_never_replaced_by_an_empty_one(
    reported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in reported.glob("*/record.json"):
        file.unlink()
    before = files_of(reported / "report")
    with pytest.raises(SystemExit) as ended:
        redraw(reported, monkeypatch)
    assert ended.value.code == 1
    assert f"{reported} holds no finished run" in capsys.readouterr().err
    assert files_of(reported / "report") == before


@pytest.mark.usefixtures("alone")
def test_a_report_is_found_by_any_spelling_of_its_study(reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (reported / "report" / "report.html").unlink()
    redraw(reported.with_name(" TINY."), monkeypatch)
    assert (reported / "report" / "report.html").is_file()
    assert [folder.name for folder in reported.parent.iterdir()] == ["tiny"]


@pytest.mark.usefixtures("alone")
def test_a_study_without_a_report_is_refused_with_the_command_that_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        redraw(tmp_path / "tiny", monkeypatch)
    assert ended.value.code == 1
    assert f"{tmp_path}/tiny does not exist; name a study by study=NAME, or runs by runs=[...]" in capsys.readouterr().err
