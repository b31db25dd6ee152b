"""`rewardloop report scores=FILE`: what a user finds in the folder, and what is refused before anything is written."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from launch import report
from launch.compose import ConfigError
from launch.entry import composed
from launch.schema import ReportJob


def draw(*overrides: str) -> None:
    report._command(composed(ReportJob, overrides))  # pyright: ignore[reportPrivateUsage]


def table(path: Path, columns: dict[str, list[Any]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", *columns])
        writer.writerows([f"rm-{number}", *row] for number, row in enumerate(zip(*columns.values(), strict=True)))
    return str(path)


def summary(out: Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())


@pytest.fixture
def scores() -> dict[str, list[Any]]:
    rng = np.random.default_rng(0)
    rb2 = rng.normal(65, 5, 12)
    return {"rb2": rb2.tolist(), "rb1": rng.normal(80, 5, 12).tolist(), "bon": (0.5 * rb2 + rng.normal(0, 0.4, 12)).tolist()}


def test_the_summary_holds_scipys_statistics_and_the_planted_winner(tmp_path: Path, scores: dict[str, list[Any]], capsys: Any) -> None:
    draw(f"scores={table(tmp_path / 's.csv', scores)}", "benchmarks=[rb2,rb1]", "downstream=[bon]", f"out={tmp_path / 'out'}")
    found = summary(tmp_path / "out")
    link = found["correlation"]["rb2~bon"]
    expected = stats.pearsonr(scores["rb2"], scores["bon"])
    assert link["pearson"] == pytest.approx(expected[0], abs=1e-12)
    assert link["ci95"] == pytest.approx(list(expected.confidence_interval()), abs=1e-12)
    assert link["r2"] == pytest.approx(link["pearson"] ** 2)
    assert link["spearman"] == pytest.approx(stats.spearmanr(scores["rb2"], scores["bon"])[0])
    assert link["kendall"] == pytest.approx(stats.kendalltau(scores["rb2"], scores["bon"])[0])
    assert link["n"] == 12
    assert found["head_to_head"][0]["better"] == "rb2"
    said = " ".join(capsys.readouterr().out.split())
    assert "For bon: rb2 predicts it better than rb1 (r = " in said
    assert "the best of 12 with probability 0." in said or "the best of 12 with probability 1.00" in said
    for name in ("report.html", "report.md", "correlation.csv", "models.csv", "benchmark_vs_downstream.png", "pick.png", "benchmarks.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert "rb2 ~ bon" in (tmp_path / "out" / "report.md").read_text()


def test_missing_scores_too_few_models_and_constant_columns_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"rb2": [1.0, 2.0, "NaN", 4.0], "bon": [5, 5, 5, 5], "ppo": ["", "", 3, 4]}
    draw(f"scores={table(tmp_path / 's.csv', columns)}", "benchmarks=rb2", "downstream=[bon,ppo]", f"out={tmp_path / 'out'}")
    found, said = summary(tmp_path / "out"), " ".join(capsys.readouterr().out.split())
    assert found["correlation"]["rb2~bon"]["pearson"] is None
    assert "rb2 ~ bon: bon is the same for all 3." in said
    assert found["correlation"]["rb2~ppo"]["n"] == 1
    assert "rb2 ~ ppo: 1 reward model; a correlation needs 3" in said
    assert "rb2 is not finite for 1 of 4: rm-2" in said
    assert "ppo is missing for 2 of 4: rm-0, rm-1" in said


@pytest.mark.parametrize(("num_models", "folded"), [(20, False), (21, True)])
def test_a_long_table_of_the_page_opens_when_it_is_asked_for(tmp_path: Path, num_models: int, folded: bool) -> None:
    columns = {"rb2": list(range(num_models)), "bon": list(range(num_models))}
    draw(f"scores={table(tmp_path / 's.csv', columns)}", "benchmarks=rb2", "downstream=bon", f"out={tmp_path / 'out'}")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"rm-{num_models - 1}" in page
    assert (f"<details><summary>All {num_models} rows</summary>" in page) == folded


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["benchmarks=[nope]", "downstream=[bon]"], "has no column nope"),
        (["benchmarks=[rb2]", "downstream=[bon]", "diagnostics=[std]"], "has no column std"),
        (["benchmarks=[rb2]", "downstream=[bon]", "reference=absent.jsonl"], "reference=absent.jsonl is no file"),
    ],
)
def test_what_is_not_in_the_table_is_refused_and_nothing_written(
    tmp_path: Path, scores: dict[str, list[Any]], overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw(f"scores={table(tmp_path / 's.csv', scores)}", *overrides, f"out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scores=s.csv"], "benchmarks=\\[COLUMN"),
        (["scores=s.csv", "benchmarks=[a]"], "downstream is empty"),
        (["scores=s.csv", "benchmarks=[a]", "downstream=[a]"], "a stands twice"),
        (["scores=s.csv", "runs=[x]", "benchmarks=[a]", "downstream=[b]"], "leave one out"),
        (["names=model"], "give scores=FILE"),
        (["shares=[rb2]"], "shares=rb2 is for tables"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(ReportJob, overrides)


def test_scores_of_two_protocols_are_never_drawn_as_one(tmp_path: Path, scores: dict[str, list[Any]]) -> None:
    columns = scores | {"max_length": [2048] * 7 + [4096] * 5}
    draw(f"scores={table(tmp_path / 's.csv', columns)}", "benchmarks=[rb2]", "downstream=[bon]", f"out={tmp_path / 'out'}")
    found = summary(tmp_path / "out")
    assert found["correlation"]["rb2~bon"]["pearson"] is None
    assert "2 protocols" in found["correlation"]["rb2~bon"]["note"]
    assert found["correlation"]["rb2~bon (max_length 2048)"]["n"] == 7
    assert found["correlation"]["rb2~bon (max_length 4096)"]["n"] == 5
    assert "2 protocols (max_length 2048; max_length 4096), which are not comparable" in found["pick"]["rb2~bon"]["answer"]


def test_published_scores_and_correlations_lie_behind_ones_own(tmp_path: Path, scores: dict[str, list[Any]]) -> None:
    (tmp_path / "published.jsonl").write_text('{"model": "x", "Score": 0.9, "bon": 0.5}\n{"model": "y", "Score": 0.1, "bon": 0.4}\n')
    (tmp_path / "figure3.jsonl").write_text('{"downstream": "BoN", "Score": 0.87, "Math": 0.9}\n')
    references = f"reference=[{tmp_path / 'published.jsonl'},{tmp_path / 'figure3.jsonl'}]"
    draw(f"scores={table(tmp_path / 's.csv', scores)}", "benchmarks=[rb2]", "downstream=[bon]", references, f"out={tmp_path / 'out'}")
    table_of_scores, figure = summary(tmp_path / "out")["reference"]
    assert table_of_scores["points"]["rb2~bon"] == [[90.0, 50.0], [10.0, 40.0]]  # shares, brought to points of 100
    assert table_of_scores["standing"]["rb2"] == {"best": max(scores["rb2"]), "rank": 2, "of": 2, "highest": 90.0}
    assert figure["pearson"] == {"rb2~bon": 0.87}
    assert summary(tmp_path / "out")["correlation"]["rb2~bon"]["n"] == 12


def test_a_published_row_without_a_finite_score_is_left_out(tmp_path: Path, scores: dict[str, list[Any]]) -> None:
    (tmp_path / "published.csv").write_text("model,rb2,bon\nx,70,50\ny,nan,40\nz,n/a,30\nw,60,inf\n")
    reference = f"reference=[{tmp_path / 'published.csv'}]"
    draw(f"scores={table(tmp_path / 's.csv', scores)}", "benchmarks=[rb2]", "downstream=[bon]", reference, f"out={tmp_path / 'out'}")
    [found] = summary(tmp_path / "out")["reference"]
    assert found["points"]["rb2~bon"] == [[70.0, 50.0]]
    assert (found["standing"]["rb2"]["of"], found["standing"]["rb2"]["highest"]) == (2, 70.0)


@pytest.mark.parametrize("column", ["rb2_se", "rb2_stderr", "se_rb2", "rb2 se"])
def test_standard_errors_stand_beside_their_scores_whatever_the_file_calls_them(tmp_path: Path, column: str) -> None:
    columns = {"rb2": [60.0] * 3, column: [1.25] * 3, "rb1": [70.0] * 3}
    draw(f"scores={table(tmp_path / 's.csv', columns)}", "benchmarks=[rb2,rb1]", f"out={tmp_path / 'out'}")
    assert "60 ± 1.2" in (tmp_path / "out" / "report.md").read_text()


def test_two_benchmarks_alone_are_set_side_by_side(
    tmp_path: Path, scores: dict[str, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(f"scores={table(tmp_path / 's.csv', scores)}", "benchmarks=[rb1,rb2]", f"out={tmp_path / 'out'}")
    found = summary(tmp_path / "out")
    assert found["between_benchmarks"]["rb1~rb2"]["n"] == 12
    assert (found["correlation"], found["pick"], found["head_to_head"]) == ({}, {}, [])
    assert "rb1 ~ rb2" in capsys.readouterr().out
    assert (tmp_path / "out" / "benchmarks.png").is_file()


def test_shares_of_a_table_are_points_to_people_and_shares_in_files(
    tmp_path: Path, scores: dict[str, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"rewardbench2/overall": [value / 100 for value in scores["rb2"]], "win": [value / 100 for value in scores["bon"]]}
    columns |= {"elo": [1000 + 10 * value for value in scores["bon"]]}
    file = table(tmp_path / "s.csv", columns)
    draw(f"scores={file}", "benchmarks=[rewardbench2/overall]", "downstream=[win,elo]", "shares=[win]", f"out={tmp_path / 'out'}")
    found, text = summary(tmp_path / "out"), (tmp_path / "out" / "report.md").read_text()
    assert found["shares"] == ["rewardbench2/overall", "win"]
    assert max(model["scores"]["win"] for model in found["models"]) < 1
    best = max(scores["rb2"])
    assert f"| {best:.1f} |" in text
    assert f"{best / 100:.4g}" not in text
    assert "RewardBench 2 overall ~ win" in text
    assert "Scores are points of 100, but for elo: this is shown as the table has it." in text
    said = " ".join(capsys.readouterr().out.split())
    assert "rewardbench2/overall" not in said
    assert " points. " in said


@pytest.mark.parametrize(
    ("share", "message"),
    [("bon", "bon of rm-0 is .*, which is no share of 1; leave bon out of shares"), ("other", "shares=other is none of the columns")],
)
def test_a_column_that_is_called_a_share_and_is_none_is_refused(
    tmp_path: Path, scores: dict[str, list[Any]], share: str, message: str
) -> None:
    file = table(tmp_path / "s.csv", scores)
    with pytest.raises(ValueError, match=message):
        draw(f"scores={file}", "benchmarks=[rb2]", "downstream=[bon]", f"shares=[{share}]", f"out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
