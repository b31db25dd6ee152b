"""Details of runs reach the report: held-out accuracy with its error, losses, settings that differ, cost, warnings."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from evalhooks.report import write_report
from evalhooks.report.details import differing, held_out_text
from evalhooks.report.facts import read
from evalhooks.report.gathered import MAX_POINTS, details
from evalhooks.report.summary import summarize


def record(folder: Path, lr: float, steps: int = 3) -> dict[str, Any]:
    """A finished reward model whose loss falls from 0.7 by a hundredth a step."""
    folder.mkdir(parents=True)
    lines = [{"axis": "train/step", "train/step": step, "time": 0.0, "train/loss": 0.7 - step / 100} for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "dir": str(folder),
        "id": folder.name[-8:],
        "job": "rm",
        "lineage": {"base": "base", "data": "tulu"},
        "identity": {"optim": {"lr": lr}, "epochs": 1, "seed": 0, "data": {"flip": 0.0}, "inputs": {"data.0.a": f"hash of {lr}"}},
        "final": {"held_out/accuracy": 0.8, "rewardbench2/math": 0.5, "rewardbench2_se/math": 0.05},
        "data": {"held_out": 100},
        "wall_s": 70.0,
        "train_s": 60.0,
        "hooks_s": 15.0,
        "warnings": [{"what": "pairs_dropped", "key": "max_length", "text": "12% of the pairs were dropped", "numbers": {}}],
    }


def summary_of(folder: Path) -> dict[str, Any]:
    records = [record(folder / "rm-a-11111111", 1e-5), record(folder / "rm-b-22222222", 1e-6)]
    return summarize(study="two", wall_s=140.0, records=records, pools=None, policy_lineage="", notes=[])


def test_held_out_accuracy_has_the_error_of_a_share_and_a_curve_keeps_its_last_point(tmp_path: Path) -> None:
    found = details(record(tmp_path / "rm-a-11111111", 1e-5, steps=MAX_POINTS + 2))
    # sqrt(0.8 * 0.2 / 100) = 0.04
    assert found["held_out"] == pytest.approx({"accuracy": 0.8, "error": 0.04, "pairs": 100})
    assert found["errors"] == {"math": 0.05}
    curve = found["curves"]["loss"]
    assert len(curve) <= MAX_POINTS + 1
    assert curve[-1][0] == MAX_POINTS + 2


def test_runs_without_pools_are_reported_with_the_settings_in_which_they_differ(tmp_path: Path) -> None:
    study = read(summary_of(tmp_path))
    keys, rows = differing(study.models)
    assert keys == ["optim.lr"]
    assert rows == [["1e-05"], ["1e-06"]]
    assert held_out_text(study.models[0]) == "80.0 ± 4.0 (100 pairs)"


def test_eight_right_pairs_of_eight_are_not_certain(tmp_path: Path) -> None:
    own = record(tmp_path / "rm-a-11111111", 1e-5)
    sure = own | {"final": {"held_out/accuracy": 1.0, "held_out/num_pairs": 8.0}, "data": {"held_out": 9}}  # one is too long
    study = read(summarize(study="one", wall_s=1.0, records=[sure], pools=None, policy_lineage="", notes=[]))
    # Wilson's interval is 67.6 to 100, as wide as a normal one of 32.4 / 2 / 1.96 = 8.3.
    assert held_out_text(study.models[0]) == "100.0 ± 8.3 (8 pairs)"


def test_the_page_and_the_tables_hold_what_was_gathered(tmp_path: Path) -> None:
    page = write_report(summary_of(tmp_path / "runs"), tmp_path / "report").read_text()
    for part in ("80.0 ± 4.0 (100 pairs)", "50.0 ± 5.0", "optim.lr", "15 s (25% of training)", "12% of the pairs were dropped"):
        assert part in page, part
    assert (tmp_path / "report" / "losses.png").stat().st_size > 1000
    assert "80.0 ± 4.0 (100 pairs)" in (tmp_path / "report" / "report.md").read_text()
    with (tmp_path / "report" / "reward_models.csv").open() as file:
        row = next(csv.DictReader(file))
    assert (row["rewardbench2_se/math"], row["held_out/accuracy"], row["wall_s"]) == ("0.05", "0.8", "70.0")
