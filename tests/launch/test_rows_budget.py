"""`rewardloop rm` with `hooks.budget`: the same part of the rows at every checkpoint, and said wherever its scores stand."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.progress import NoProgress
from core.runs.tracking import METRICS, read_metrics
from evalhooks.measured_rows import ROWS_FILE, rows_texts
from evalhooks.report.summary import protocol, summarize
from evalhooks.rewardbench.domains import DOMAINS
from launch import rm
from launch.entry import composed
from launch.history.listing import main as list_runs
from launch.history.one import described
from launch.jobs.lifecycle import Record
from launch.schema import RMJob
from microworld.config import WorldConfig
from microworld.world import build_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("budget")
    world = build_world(WorldConfig(corpus_size=40, pairs=32, benchmark_rows=12, task_rows=4, vocab_size=300), folder / "world")
    policy.save_pretrained(world / "policies" / "coast")
    tokenizer.save_pretrained(world / "policies" / "coast")
    return folder


def run(folder: Path, *overrides: str) -> Record:
    own = [f"world={folder}/world", f"runs_dir={folder}/runs", "study=s", "tracker=files", "hooks.pools=''", "data.held_out=0.2"]
    small = ["data=atlas", "max_length=96", "batch_size=8", "num_checkpoints=2"]
    return rm.run(composed(RMJob, [*own, *small, *overrides]), NoProgress())


def test_within_a_budget_every_checkpoint_is_measured_on_the_same_rows_of_every_domain(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(folder, "hooks.budget=0.3")
    place, text = Path(record["dir"]), ", ".join(rows_texts(record))
    assert f"warning: hooks.budget=0.3: every checkpoint is measured on {text}\n" in capsys.readouterr().out
    measured, total = record["rows"]["rewardbench2"]
    assert 6 <= measured < total
    tables = [pq.read_table(file).to_pydict() for file in sorted(place.glob("evals/*.rewardbench2.parquet"))]
    assert len(tables) == 2
    assert tables[0]["id"] == tables[1]["id"]
    assert len(tables[0]["id"]) == measured
    assert len({*tables[0]["subset"]}) == 6
    for row in read_metrics(place / METRICS, axis="checkpoint/step").values():
        assert row["held_out/num_pairs"] + row["held_out/num_too_long"] == record["rows"]["held_out"][0]
        assert row["hooks/truncated"] == 0
    assert f"  measured on {text} (hooks.budget)" in [*described(record)]
    assert text.split(", ", maxsplit=1)[0] in protocol(record)["protocol"]
    monkeypatch.setattr("sys.argv", ["runs", f"runs_dir={folder}/runs"])
    list_runs()
    assert f"({measured} of {total} rows)" in capsys.readouterr().out


def test_an_ample_budget_leaves_nothing_out_and_none_is_that_of_earlier_runs(folder: Path) -> None:
    small = ["hooks.rewardbench1=''", "hooks.limit=0.1"]
    whole = run(folder, *small)
    assert "rows" not in whole
    assert not (Path(whole["dir"]) / ROWS_FILE).exists()
    assert "budget" not in whole["identity"]["hooks"]
    ample = run(folder, *small, "hooks.budget=1.0", "epochs=6")
    assert rows_texts(ample) == []
    assert ample["rows"]["rewardbench2"] == [7, 7]  # one of each domain, and Ties in pairs
    assert ample["identity"]["hooks"]["budget"] == 1.0


def test_reward_models_of_one_sweep_are_compared_on_the_rows_that_all_their_budgets_paid_for(folder: Path) -> None:
    records = [run(folder, "hooks.budget=0.3", "study=sweep", "hooks.rewardbench1=''", f"epochs={epochs}") for epochs in (1, 3)]
    tables = [pq.read_table(sorted(Path(record["dir"]).glob("evals/*.rewardbench2.parquet"))[-1]).to_pylist() for record in records]
    own = [{(row["subset"], row["id"]): row for row in table} for table in tables]
    assert own[0].keys() < own[1].keys()
    summary = summarize(study="sweep", wall_s=1.0, records=records, pools=None, policy_lineage="", notes=[])
    models = {model["epochs"]: model for model in summary["reward_models"]}
    for domain, name in DOMAINS.items():
        if domain != "ties":  # which is no mean of rows
            common = [own[1][key]["credit"] for key in own[0] if key[0] == name]
            assert models[3]["rewardbench2"][domain] == pytest.approx(sum(common) / len(common))
            assert models[1]["rewardbench2"][domain] == records[0]["final"][f"rewardbench2/{domain}"]
    assert models[1]["protocol"]["protocol"] == models[3]["protocol"]["protocol"]
    assert f"their scores here are on the {len(own[0])} rows that all were measured on" in summary["notes"][0]
