"""`rewardloop report wandb=...`: the panels of a study, as Weights & Biases would be sent them."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from core.records import AXIS
from core.runs.record import open_run
from core.runs.tracking import METRICS, JsonlTracker, read_rows
from evalhooks.report.workspace import specification
from evalhooks.report.workspace import workspace as workspace_of
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
        log = JsonlTracker(run.dir / METRICS)
        log.log(TRAINED[job], axis="train/step", step=1)
        log.log(metrics, axis=AXIS, step=5)
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


def test_the_specification_loads_back_and_every_panel_shows_what_was_logged_on_its_axis(runs_dir: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns of its own use of pydantic
        from wandb_workspaces.workspaces import Workspace, internal

    file = runs_dir.parent / "panels.json"
    draw(f"runs_dir={runs_dir}", f"wandb={file}", "wandb_entity=lab")
    loaded = Workspace._from_model(internal.View.model_validate_json(file.read_text()))  # pyright: ignore[reportPrivateUsage]
    assert (loaded.entity, loaded.name, str(loaded.runset_settings.filters)) == ("lab", "rewardloop demo", "Metric(\"Group\") == 'demo'")
    logged = {(row.axis, name) for log in runs_dir.glob(f"*/*/{METRICS}") for row in read_rows(log) for name in row.metrics}
    panels: list[Any] = [panel for section in loaded.sections for panel in section.panels]
    lines: set[tuple[Any, Any]] = {(panel.x.name, y.name) for panel in panels if type(panel).__name__ == "LinePlot" for y in panel.y}
    points: set[tuple[Any, Any]] = {
        (AXIS, end.name) for panel in panels if type(panel).__name__ == "ScatterPlot" for end in (panel.x, panel.y)
    }
    assert len(lines) == 11
    assert lines | points <= logged


def test_of_runs_of_best_of_n_rewards_have_a_panel_each_where_nothing_else_was_reranked() -> None:
    reranked = {f"bon/{name}@{n}" for name in ("a/average", "b/average", "a/sums", "b/sums") for n in (2, 16)}
    for others, shown in (
        (set[str](), ["bon/a/average@16", "bon/b/average@16"]),
        ({"bon/average@4", "bon/sums@4"}, ["bon/average@4", "bon/sums@4"]),
    ):
        made = workspace_of(entity="lab", project="p", study="s", checkpoint_metrics=reranked | others, training_metrics=[])
        [section] = made.sections
        assert [panel.title for panel in section.panels] == shown  # pyright: ignore[reportAttributeAccessIssue]


def test_a_study_of_benchmarks_alone_has_panels_too_and_a_name_may_have_an_apostrophe(tmp_path: Path) -> None:
    run, _ = open_run(runs_dir=tmp_path, study="Ann's", job="bench", name="a", identity={"job": "bench"}, config_yaml="")
    JsonlTracker(run.dir / METRICS).log({"rewardbench2/overall": 0.5}, axis=AXIS, step=0)
    folder = run.dir.parent.name
    draw(f"runs_dir={tmp_path}", f"study={folder}", f"wandb={tmp_path}/panels.json")
    sections = json.loads((tmp_path / "panels.json").read_text())["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == ["Benchmark"]
    made = workspace_of(entity="lab", project="p", study="Ann's", checkpoint_metrics=["kl"], training_metrics=[])
    assert str(made.runset_settings.filters) == 'Group == "Ann\'s"'
    assert "Ann's" in json.dumps(specification(made))


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
