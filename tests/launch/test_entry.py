"""The command line: what is accepted, and what a user reads when it is not."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import obstacles
from launch.entry import Composed, ConfigError, combinations, composed
from launch.schema import BenchJob, RMJob, StudyJob
from launch.studies.plan import plan
from tests.launch.sweeps import code_of

PAIR = '{"prompt": "Name a fruit.", "chosen": "A plum.", "rejected": "A lamp."}\n'


def refused(*arguments: str, cwd: Path) -> str:
    """The message of a command that must fail, in less than ten seconds."""
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-m", "launch.rm", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert time.monotonic() - started < 30  # far above the ten seconds that are promised, for a machine under load
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_a_configuration_becomes_the_dataclasses_of_the_trainers() -> None:
    job = composed(RMJob, ["data=union", "world=somewhere"]).job
    assert isinstance(job, RMJob)
    assert job.data.paths == ["somewhere/preferences/atlas.jsonl", "somewhere/preferences/harbor.jsonl"]
    assert job.model.path == "somewhere/policies/coast"


def test_the_kept_yaml_is_unresolved_so_that_no_secret_lands_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "hunter2")
    kept = composed(RMJob, ["tracker.project=${oc.env:A_SECRET}"])
    assert kept.job.tracker.project == "hunter2"
    assert "hunter2" not in kept.yaml


def test_hydras_own_file_of_a_sweep_holds_no_password(alone: None, tmp_path: Path) -> None:
    judge = ["reward=judge", "reward.judge.model=m", "reward.judge.base_url='http://me:hunter2@host/v1'"]
    urls: list[str] = []

    def run(composed: Composed[BenchJob]) -> None:
        urls.append(composed.job.reward.judge.base_url)

    assert code_of(run, ["-m", *judge, "seed=0,1"], BenchJob) == 0
    assert urls == ["http://me:hunter2@host/v1"] * 2
    for file in tmp_path.rglob("*.yaml"):
        assert "hunter2" not in file.read_text()


def test_a_sweep_is_the_product_of_its_values() -> None:
    assert combinations(["data=atlas,harbor", "optim.lr=1e-3", "epochs=1,2"]) == [
        ["data=atlas", "optim.lr=1e-3", "epochs=1"],
        ["data=atlas", "optim.lr=1e-3", "epochs=2"],
        ["data=harbor", "optim.lr=1e-3", "epochs=1"],
        ["data=harbor", "optim.lr=1e-3", "epochs=2"],
    ]
    assert combinations(["data.paths=[a.jsonl,b.jsonl]"]) == [["data.paths=[a.jsonl,b.jsonl]"]]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optm.lr=1e-3", ["optm.lr", "optim.lr"]),
        ("lr=1e-3", ["lr=1e-3", "did you mean optim.lr?"]),
        ("epochz=2", ["epochz", "epochs"]),
        ("learning_rate=1e-3", ["did you mean optim.lr?"]),  # as transformers and TRL call it
        ("+per_device_train_batch_size=8", ["did you mean batch_size?"]),
        ("optim.lr=abc", ["optim.lr", "abc"]),
        ("data=atlass", ["data/atlass", "harbor"]),
        ("optim.schedule=step", ["schedule", "linear"]),
        ("epochs=0", ["epochs is 0"]),
        ("data.flip=1.5", ["data.flip is 1.5"]),
        ("micro_batch_size=0", ["micro_batch_size is 0"]),
        ("hooks.limit=0", ["hooks.limit"]),
        ("hooks.budget=2", ["hooks.budget"]),
        ("+epochz=2", ["+epochz=2 adds a key that nothing reads", "epochs"]),
        ("++optim.rate=2", ["++optim.rate=2", "optim.lr"]),
        ("model=5", ["model=5 chooses none of the files for model", "coast"]),
        ("tracker=[wandb,tensorbord]", ["tracker/tensorbord", "tensorboard"]),
        ("resume=maybe", ["resume is 'maybe'", "auto", "never"]),
    ],
)
def test_a_wrong_override_is_refused_with_its_key_and_a_remedy(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        composed(RMJob, [override])
    for word in words:
        assert word in str(error.value)


def test_several_trackers_are_chosen_together() -> None:
    chosen = composed(RMJob, ["tracker=[wandb,tensorboard,mlflow]"]).job.tracker
    assert (chosen.mode, chosen.tensorboard, chosen.mlflow, chosen.trackio) == ("auto", True, True, False)
    assert composed(RMJob, ["tracker=trackio"]).job.tracker.mode == "disabled"


def test_a_tracker_whose_package_is_missing_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obstacles, "find_spec", lambda name: None if name in ("alembic", "trackio") else object())
    job = composed(RMJob, ["tracker=[tensorboard,mlflow]"]).job
    assert (obstacles.obstacle(job) or "").startswith("tracker=mlflow needs alembic, which is not installed; install it with `pip install")
    assert "'rewardloop[trackio]'" in (obstacles.obstacle(composed(RMJob, ["tracker=trackio"]).job) or "")


def test_a_mistyped_sweep_is_refused_before_its_first_job(tmp_path: Path) -> None:
    message = refused("-m", "data=atlas,harbour", cwd=tmp_path)
    assert "harbour" in message
    assert not (tmp_path / "runs").exists()


def test_a_flag_that_there_is_not_is_refused_by_its_name(tmp_path: Path) -> None:
    assert refused("--epochs", "2", cwd=tmp_path) == "rewardloop: --epochs is no flag; settings are given as key=value, as in epochs=2.\n"


def test_an_unknown_model_path_is_refused_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(PAIR)
    message = refused("model=custom", "model.path=no/such/model", "data=custom", "data.paths=[pairs.jsonl]", cwd=tmp_path)
    assert "model.path=no/such/model does not exist" in message


def test_a_preference_file_with_broken_rows_is_refused_by_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(PAIR + '{"prompt": "Name a tree.", "chosen": "An elm."}\n' + "{broken\n")
    message = refused("model=custom", "model.path=gone/away", "data=custom", "data.paths=[pairs.jsonl]", cwd=tmp_path)
    assert "pairs.jsonl" in message
    assert "row 2" in message
    assert "row 3" in message
    assert "rejected missing" in message


def test_an_unknown_hub_model_is_refused_by_its_key_without_waiting_for_the_hub(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(PAIR)
    chosen = ["model=custom", "model.path=nobody-has/this-model", "data=custom", "data.paths=[pairs.jsonl]"]
    process = subprocess.run(
        [sys.executable, "-m", "launch.rm", *chosen],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HTTPS_PROXY": "", "https_proxy": ""},
    )
    assert process.returncode == 1
    assert "model.path=nobody-has/this-model does not exist here, and the hub cannot be reached" in process.stderr
    assert not (tmp_path / "runs").exists()


def test_a_missing_world_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    message = refused("data=union", cwd=tmp_path)
    assert "world=runs/demo/world-0 does not exist" in message
    assert "rewardloop study experiment=demo" in message


def test_a_mistyped_experiment_is_refused() -> None:
    with pytest.raises(ConfigError, match="experiment/demoo"):
        composed(StudyJob, ["experiment=demoo"])


def test_what_an_experiment_asks_for_is_named() -> None:
    with pytest.raises(ConfigError, match="preferences and benchmark and prompts must be given"):
        composed(StudyJob, ["experiment=smollm2"])


def test_a_study_reads_its_inputs_before_its_first_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(PAIR + "{broken\n")
    (tmp_path / "prompts.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    row = '{"id": "1", "prompt": "?", "chosen": ["a"], "rejected": ["b"], "subset": "Math"}\n'
    (tmp_path / "rows.jsonl").write_text(row)
    monkeypatch.setattr("launch.inputs.resolve", lambda model: None)
    study = composed(StudyJob, ["experiment=smollm2", "preferences=pairs.jsonl", "benchmark=rows.jsonl", "prompts=prompts.jsonl"]).job
    with pytest.raises(ValueError, match=r"pairs.jsonl has 1 broken row"):
        plan(study, tmp_path)
