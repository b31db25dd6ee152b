"""`rewardloop report wandb=...`: the panels of a study, as Weights & Biases would be sent them."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.disk import write_json
from core.hooks.hook import eval_file
from core.records import AXIS
from core.runs.record import open_run
from core.runs.tracking import METRICS, JsonlTracker
from launch import report
from launch.entry import composed
from launch.jobs import workspace
from launch.schema import ReportJob

LOGGED = {
    "rm": {"rewardbench2/overall": 0.5, "rewardbench2/math": 0.5, "rewardbench2_se/math": 0.1, "bon/average@16": 0.3, "bon/average@2": 0.2},
    "ppo": {"downstream/sums": 0.2, "downstream/average": 0.2, "kl": 0.1, "on_policy/rm_accuracy": 0.7},
}
TRAINED = {"rm": {"train/loss": 0.7, "train/accuracy": 0.5}, "ppo": {"train/score": 0.1, "train/kl": 0.2, "train/seconds": 1.0}}


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    for job, metrics in LOGGED.items():
        run, _ = open_run(runs_dir=tmp_path / "runs", study="demo", job=job, name="a", identity={"job": job}, config_yaml="")
        write_json(eval_file(run.dir, 5), {AXIS: 5, **metrics})
        JsonlTracker(run.dir / METRICS).log(TRAINED[job], axis="train/step", step=1)
    return tmp_path / "runs"


def draw(*overrides: str) -> None:
    report._command(composed(ReportJob, overrides))  # pyright: ignore[reportPrivateUsage]


def panels_of(section: dict[str, Any]) -> list[tuple[str, object]]:
    return [(panel["config"]["xAxis"], panel["config"].get("metrics") or panel["config"]["yAxis"]) for panel in section["panels"]]


def test_the_panels_of_a_study_lie_each_on_the_axis_of_its_metric(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = runs_dir.parent / "new" / "panels.json"
    draw(f"runs_dir={runs_dir}", f"wandb={file}", "wandb_entity=lab", "wandb_project=rewards")
    assert capsys.readouterr().out == f"the specification of the workspace is in {file}; nothing was sent\n"
    made = json.loads(file.read_text())
    assert (made["entity"], made["project"], made["displayName"]) == ("lab", "rewards", "rewardloop demo")
    spec = made["spec"]["section"]
    assert spec["settings"]["xAxis"] == "checkpoint/step"
    [filtered] = spec["runSets"][0]["filters"]["filters"]
    assert (filtered["key"]["name"], filtered["op"], filtered["value"]) == ("group", "=", "demo")
    assert {section["name"]: panels_of(section) for section in spec["panelBankConfig"]["sections"]} == {
        "Benchmark": [(AXIS, ["rewardbench2/overall"]), (AXIS, ["rewardbench2/math"])],
        "Downstream": [(AXIS, ["downstream/average"]), (AXIS, ["bon/average@16"]), (AXIS, ["downstream/sums"])],
        "Benchmark against downstream": [
            ("summary:rewardbench2/overall", "summary:bon/average@16"),
            ("summary:on_policy/rm_accuracy", "summary:downstream/average"),
        ],
        "On-policy accuracy and KL": [(AXIS, ["on_policy/rm_accuracy"]), (AXIS, ["kl"])],
        "Training": [("train/step", [name]) for name in ("train/loss", "train/accuracy", "train/score", "train/kl")],
    }


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["wandb=panels"], "wandb=panels is neither workspace nor a file"),
        (["wandb=workspace", "serve=true"], "the panels of one study"),
        (["wandb_entity=lab"], "belong to wandb=workspace"),
    ],
)
def test_what_cannot_be_meant_is_refused(overrides: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        draw(*overrides)


def test_without_a_login_or_metrics_nothing_is_sent(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "has_api_key", lambda: False)
    with pytest.raises(ValueError, match=r"no API key; run `wandb login`, .*wandb=FILE.json"):
        draw(f"runs_dir={runs_dir}", "wandb=workspace")
    (runs_dir / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no run in .*empty has logged metrics"):
        draw(f"runs_dir={runs_dir}", "study=empty", "wandb=workspace")
