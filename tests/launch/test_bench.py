"""`rewardloop bench` as a user runs it: from saved scores, with a reward model, a function, a judge; its files; bad input."""

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.progress import NoProgress
from core.runs.record import read_record
from evalhooks.rewardbench.v2 import DOMAINS
from launch.bench import _command, main, run  # pyright: ignore[reportPrivateUsage]
from launch.entry import ConfigError, composed, start
from launch.schema import BenchJob
from launch.sweep import JobOutcome, JobStatus

BEST_OF_4 = [name for name in DOMAINS.values() if name != "Ties"]


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


pytestmark = pytest.mark.usefixtures("alone")  # saved scores leave a run too


def scored(domain: str, id_: str, scores: Sequence[Any], num_correct: int = 1) -> dict[str, Any]:
    return {"id": id_, "subset": domain, "num_correct": num_correct, "total_completions": len(scores), "scores": scores}


def bench(*overrides: str) -> dict[str, Any]:
    return run(composed(BenchJob, overrides), NoProgress())


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """One row per best-of-4 domain and a pair of Ties; the correct completion is the longest."""
    found = [
        {"id": name, "prompt": "Name a fruit.", "chosen": ["A plum is one."], "rejected": ["No.", "5", "lamp"], "subset": name}
        for name in BEST_OF_4
    ]
    found.append({"id": "ref:0", "prompt": "2 plus 3?", "chosen": ["It is 5."], "rejected": ["6"], "subset": "Ties"})
    found.append({"id": "tied:0", "prompt": "A fruit?", "chosen": ["plum", "figs"], "rejected": ["a"], "subset": "Ties"})
    return jsonl(tmp_path / "rows.jsonl", found)


def brevity(prompts: Sequence[Any], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    """A reward for `reward=function`: minus the number of characters."""
    return [[-float(len(text)) for text in answers] for answers in completions]


def verbosity(prompts: Sequence[Any], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    return [[float(len(text)) for text in answers] for answers in completions]


def test_saved_scores_give_the_result_in_the_order_of_the_file(tmp_path: Path) -> None:
    saved = [
        scored("Ties", "tied:0", [3.0, 2.5, 0.0], 2),
        scored("math", "1", [2.0, 2.0, 1.0, 0.0]),  # shares the maximum with one other: 1/2
        scored("Ties", "ref:0", [1.0, 0.0]),
        scored("Math", "2", ["NaN", 1.0, 0.0, 0.0]),  # a NaN earns nothing
        *(scored(name, str(n), [best, 1.0, 0.0, 0.0]) for name in BEST_OF_4 if name != "Math" for n, best in enumerate(("Infinity", 2.0))),
    ]
    out = tmp_path / "new" / "out.json"
    bench(f"from_scores={jsonl(tmp_path / 'scores.jsonl', saved)}", f"out={out}")
    result = json.loads(out.read_text())
    assert result["row_results"] == [None, 0.5, None, 0.0] + [1.0] * 8
    # Ties: both prompts accurate, margins 2.5 and 1 above the spread of 0.5: 0.3 + 0.3 + 0.2 + 0.2 + 0.01 tanh(1/0.5 - 1)
    ties = 1.0 + 0.01 * 0.7615941559557649
    assert result["per_subset"] == pytest.approx({**dict.fromkeys(BEST_OF_4, 1.0), "Math": 0.25, "Ties": ties}, abs=1e-12)
    assert result["overall"] == pytest.approx((4 + 0.25 + ties) / 6, abs=1e-12)
    assert pq.read_table(out.with_suffix(".parquet")).column("credit").to_pylist() == result["row_results"]


def test_a_missing_domain_leaves_overall_null_with_its_name(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "scores.jsonl", [scored("Math", "1", [1.0, 0.0, 0.0, 0.0])])
    bench(f"from_scores={file}", f"out={tmp_path / 'out.json'}")
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["overall"] is None
    assert "Focus" in result["reason"]
    assert result["per_subset"] == {"Math": 1.0}


def test_saved_pairs_give_rewardbench1_with_prior_sets(tmp_path: Path) -> None:
    pairs = [
        {"subset": "alpacaeval-easy", "chosen": 2.0, "rejected": 1.0},
        {"subset": "mt-bench-hard", "chosen": 1.0, "rejected": 1.0},  # a tie earns nothing
        {"subset": "donotanswer", "chosen": 1.0, "rejected": 0.0},
        {"subset": "hep-go", "chosen": "Infinity", "rejected": 0.0},
        {"subset": "hep-go", "chosen": 1.0, "rejected": 0.0},
    ]
    (tmp_path / "prior.json").write_text(json.dumps({"anthropic_helpful": 0.6, "shp": 0.4}))
    out = tmp_path / "out.json"
    bench(
        "benchmark=rewardbench1", f"from_scores={jsonl(tmp_path / 'p.jsonl', pairs)}", f"prior_sets={tmp_path / 'prior.json'}", f"out={out}"
    )
    result = json.loads(out.read_text())
    assert result["sections"] == {"Chat": 1.0, "Chat Hard": 0.0, "Safety": 1.0, "Reasoning": 1.0}
    assert result["prior_sets"] == 0.5
    assert result["overall"] == pytest.approx((2 * 3 + 0.5) / 9)  # weights 2, 2, 2, 2 and 1


def test_a_reward_model_leaves_a_run_that_is_found_again(tmp_path: Path, rows: Path, reward_model_folder: Path) -> None:
    overrides = [f"reward.path={reward_model_folder}", f"rows={rows}", f"runs_dir={tmp_path / 'runs'}", f"out={tmp_path / 'out.json'}"]
    result = bench(*overrides)
    folder = Path(result["dir"])
    assert {"result.json", "rows.parquet", "domains.png", "metrics.jsonl", "record.json"} <= {path.name for path in folder.iterdir()}
    table = pq.read_table(folder / "rows.parquet").to_pylist()
    assert [row["id"] for row in table] == [*BEST_OF_4, "ref:0", "tied:0"]
    assert all(len(row["num_tokens"]) == len(row["scores"]) and row["truncated"] == [False] * len(row["scores"]) for row in table)
    record = read_record(folder)
    assert record["status"] == "finished"
    assert record["final"]["rewardbench2/overall"] == pytest.approx(result["overall"])
    before = (folder / "rows.parquet").stat().st_mtime_ns
    assert bench(*overrides)["overall"] == result["overall"]
    assert (folder / "rows.parquet").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "out.json").read_text())["row_results"] == result["row_results"]
    assert (tmp_path / "out.parquet").is_file()


def test_cut_texts_are_counted_in_the_result(tmp_path: Path, rows: Path, reward_model_folder: Path) -> None:
    common = [f"reward.path={reward_model_folder}", f"rows={rows}", f"runs_dir={tmp_path}"]
    whole = bench(*common)
    assert whole["num_truncated"] == 0
    lengths = [n for counts in pq.read_table(Path(whole["dir"]) / "rows.parquet").column("num_tokens").to_pylist() for n in counts]
    limit = sorted(lengths)[10]
    cut = bench(*common, f"max_length={limit}")
    assert cut["num_truncated"] == sum(length > limit for length in lengths) > 0


@pytest.mark.parametrize(("function", "credit"), [("verbosity", 1.0), ("brevity", 0.0)])
def test_a_function_is_a_reward_too(tmp_path: Path, rows: Path, function: str, credit: float) -> None:
    options = ["reward=function", f"reward.function=tests.launch.test_bench:{function}"]
    result = bench(*options, f"rows={rows}", f"runs_dir={tmp_path}")
    assert [result["per_subset"][name] for name in BEST_OF_4] == [credit] * 5
    assert result["num_truncated"] is None  # it does not read tokens


def test_an_ensemble_of_one_model_twice_scores_as_that_model(tmp_path: Path, rows: Path, reward_model_folder: Path) -> None:
    one = bench(f"reward.path={reward_model_folder}", f"rows={rows}", f"runs_dir={tmp_path}")
    members = f"reward.members=[{reward_model_folder},{reward_model_folder}]"
    both = bench("reward=ensemble", members, f"rows={rows}", f"runs_dir={tmp_path}")
    assert both["per_subset"] == one["per_subset"]


def test_a_policy_and_its_reference_are_an_implicit_reward_model(tmp_path: Path, rows: Path, policy_folder: Path) -> None:
    options = ["reward=dpo", f"reward.path={policy_folder}", f"reward.reference={policy_folder}"]
    result = bench(*options, f"rows={rows}", f"runs_dir={tmp_path}")
    # A policy that is its own reference rewards all alike: chance.
    assert [result["per_subset"][name] for name in BEST_OF_4] == [0.25] * 5


def test_a_judge_that_cannot_be_read_earns_chance_and_says_so(tmp_path: Path, rows: Path, policy_folder: Path) -> None:
    options = [
        "reward=judge",
        f"reward.judge.path={policy_folder}",
        "reward.judge.max_tokens=2",
        f"reward.judge.cache={tmp_path / 'c.sqlite'}",
    ]
    first = bench(*options, f"rows={rows}", f"runs_dir={tmp_path}")
    assert first["judge"]["num_judged"] == 5 * 4 + 2 + 3
    assert first["judge"]["unparsable_share"] == 1.0
    assert [first["per_subset"][name] for name in BEST_OF_4] == [0.25] * 5
    again = bench(*options, f"rows={rows}", f"runs_dir={tmp_path}")
    assert again["judge"]["num_asked"] == 0


def test_a_share_of_the_rows_is_scored_under_a_limit(tmp_path: Path, reward_model_folder: Path) -> None:
    many = [
        {"id": str(number), "prompt": "Name a fruit.", "chosen": ["plum"], "rejected": ["lamp"], "subset": domain}
        for domain in ("Math", "Focus")
        for number in range(20)
    ]
    file = jsonl(tmp_path / "many.jsonl", many)
    result = bench(f"reward.path={reward_model_folder}", f"rows={file}", "limit=0.1", f"runs_dir={tmp_path}")
    assert len(result["row_results"]) == 4
    assert set(result["standard_errors"]) == {"Math", "Focus", "mean of 2: Math, Focus"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "there is nothing to score"),
        (["reward=dpo", "reward.path=a"], "reward.reference is empty"),
        (["reward=ensemble", "reward.members=[a]"], "has one member"),
        (["reward=function"], "reward.function is empty"),
        (["reward=vllm", "reward.path=a"], "reward.url is empty"),
        (["reward.path=a", "limit=0"], "limit is 0"),
        (["reward.path=a", "reward.coefficient=2"], r"reward\.coefficient and reward\.standardize are for `rewardloop ppo`"),
        (["reward.path=a", "reward.standardize=true"], r"reward\.coefficient and reward\.standardize are for `rewardloop ppo`"),
        (["reward=verifier", "reward.verifier=a:b"], r"reward\.kind=verifier, .* are for `rewardloop ppo`"),
        (["reward.path=a", "out=result.parquet"], "the result, which is JSON"),
        (["from_scores=a.jsonl", "prior_sets=b.json"], "benchmark=rewardbench1"),
        (["reward.path=a", "benchmark=rewardbench3"], "rewardbench3"),
    ],
)
def test_what_cannot_run_is_refused_with_the_key(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        composed(BenchJob, overrides)


def test_a_broken_row_is_named_before_any_model_is_looked_for(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "rows.jsonl", [{"id": "1", "prompt": "?", "chosen": "text", "rejected": [], "subset": "Math"}])
    with pytest.raises(ValueError, match=r"rows.jsonl, row 1: 'chosen'"):
        bench("reward.path=nowhere", f"rows={file}")


def test_a_row_without_a_rejected_completion_is_refused_by_its_number(tmp_path: Path) -> None:
    rows = [{"id": str(n), "prompt": "?", "chosen": ["a"], "rejected": ["b"][n:], "subset": "Math"} for n in range(2)]
    with pytest.raises(ValueError, match=r"rows.jsonl, row 2: it has no incorrect completion \(1 in all, 1 correct\)"):
        bench("reward.path=nowhere", f"rows={jsonl(tmp_path / 'rows.jsonl', rows)}")
    with pytest.raises(ValueError, match=r"s.jsonl, row 1: it has no incorrect completion"):
        bench(f"from_scores={jsonl(tmp_path / 's.jsonl', [scored('Math', '1', [1.0])])}")


def test_rows_that_are_not_finite_are_told_beside_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [scored("Math", "7", ["NaN", 0.0]), scored("Math", "8", [1.0, 0.0]), scored("Focus", "9", [1.0, "Infinity"])]
    start(BenchJob, _command, [f"from_scores={jsonl(tmp_path / 's.jsonl', rows)}"])
    said = capsys.readouterr().out
    assert "2 of 3 rows have a score that is NaN or infinite, and a NaN earns no credit" in said
    assert "Math 7; Focus 9" in said
    assert "Focus was refused (Focus has no row with finite scores" in said


def test_compare_is_a_command_of_its_own(tmp_path: Path) -> None:
    a = jsonl(tmp_path / "a.jsonl", [scored("Math", str(number), [1.0, 0.0]) for number in range(9)])
    b = jsonl(tmp_path / "b.jsonl", [scored("Math", str(number), [0.0, 1.0]) for number in range(9)])
    command = [sys.executable, "-c", "from launch.cli import main; main()", "bench", "compare", str(a), str(b)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "+100.0" in done.stdout
    assert "9/0" in done.stdout
    assert "more than noise" in done.stdout


def test_an_input_is_never_overwritten_by_the_result(tmp_path: Path, reward_model_folder: Path) -> None:
    saved = jsonl(tmp_path / "same.json", [scored("Math", "1", [1.0, 0.0])])
    before = saved.read_bytes()
    with pytest.raises(ValueError, match="would overwrite from_scores"):
        bench(f"from_scores={saved}", f"out={saved}")
    assert saved.read_bytes() == before
    table = tmp_path / "mine.parquet"
    pq.write_table(pa.Table.from_pylist([{"id": "1", "prompt": "?", "chosen": ["a"], "rejected": ["b"], "subset": "Math"}]), table)
    before = table.read_bytes()
    with pytest.raises(ValueError, match="would overwrite rows"):
        bench(f"rows={table}", f"reward.path={reward_model_folder}", f"out={tmp_path / 'mine.json'}")
    with pytest.raises(ValueError, match="which is no result of"):
        bench(f"from_scores={saved}", f"out={tmp_path / 'mine.json'}")
    assert table.read_bytes() == before


def test_a_result_may_be_written_again(tmp_path: Path) -> None:
    saved = jsonl(tmp_path / "scores.jsonl", [scored("Math", "1", [1.0, 0.0])])
    for _ in range(2):
        bench(f"from_scores={saved}", f"out={tmp_path / 'out.json'}")
    assert json.loads((tmp_path / "out.json").read_text())["row_results"] == [1.0]


def test_an_out_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match="cannot be written"):
        bench("from_scores=nowhere.jsonl", f"out={tmp_path / 'folder.json'}")
    with pytest.raises(ValueError, match="cannot be written"):
        bench("from_scores=nowhere.jsonl", "out=/proc/x/y.json")


def test_a_judges_draws_keep_their_half_when_its_rows_are_read_again(tmp_path: Path, policy_folder: Path) -> None:
    pairs = [{"prompt": "?", "chosen": "plum", "rejected": "lamp", "subset": "hep-go"}]
    judge = {"path": policy_folder, "max_tokens": 2, "cache": tmp_path / "answers.sqlite"}
    options = ["reward=judge", "benchmark=rewardbench1", *(f"reward.judge.{key}={value}" for key, value in judge.items())]
    first = bench(*options, f"rows={jsonl(tmp_path / 'pairs.jsonl', pairs)}", f"runs_dir={tmp_path}", f"out={tmp_path / 'judged.json'}")
    assert first["row_results"] == [0.5]
    again = bench("benchmark=rewardbench1", f"from_scores={tmp_path / 'judged.parquet'}")
    assert again["row_results"] == [0.5]
    line = jsonl(tmp_path / "line.jsonl", [{"subset": "hep-go", "chosen": 1, "rejected": 1}])
    assert bench("benchmark=rewardbench1", f"from_scores={line}")["row_results"] == [0.0]
    assert bench("benchmark=rewardbench1", f"from_scores={line}", "generative=true")["row_results"] == [0.5]


def test_one_model_under_two_spellings_is_scored_once(tmp_path: Path, rows: Path, reward_model_folder: Path) -> None:
    first = bench(f"reward.path={reward_model_folder}", f"rows={rows}", f"runs_dir={tmp_path}")
    second = bench(f"reward.path={reward_model_folder.parent}/./{reward_model_folder.name}/", f"rows={rows}", f"runs_dir={tmp_path}")
    assert first["dir"] == second["dir"]


def test_ties_rows_that_can_have_no_score_are_told_of_before_scoring(
    tmp_path: Path, reward_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = [{"id": "ref:1", "prompt": "?", "chosen": ["a"], "rejected": ["b"], "subset": "Ties"}]
    file = jsonl(tmp_path / "lone.jsonl", lone)
    with pytest.raises(ValueError, match=r"reward\.path=nowhere"):
        bench("reward.path=nowhere", f"rows={file}", f"runs_dir={tmp_path}")
    assert "warning: Ties will have no score. Ties rows with no partner" in capsys.readouterr().err


def test_a_sweep_does_not_write_one_result_over_another(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        start(BenchJob, lambda _: None, ["-m", "from_scores=a.jsonl,b.jsonl", "out=x.json"])
    assert "every job of the sweep would write out=x.json" in capsys.readouterr().err


def test_a_value_that_needs_quotes_is_named_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"the override from_scores=w\(1\)\.jsonl cannot be parsed .* needs its own quotes"):
        composed(BenchJob, ["from_scores=w(1).jsonl"])


def test_saved_scores_stand_alone() -> None:
    with pytest.raises(ConfigError, match="from_scores evaluates a file as it is"):
        composed(BenchJob, ["from_scores=a.jsonl", "limit=0.5"])


def test_pairs_have_accuracy_interval_and_calibration_beside_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [{"prompt": "A fruit?", "chosen": "A plum." + "!" * n, "rejected": "Lamp", "source": "a"} for n in range(3)]
    pairs.append({"prompt": "A fruit?", "chosen": "Fig.", "rejected": "A lamp.", "source": "b"})  # the shorter one is right
    file = jsonl(tmp_path / "pairs.jsonl", pairs)
    start(BenchJob, _command, ["benchmark=pairs", f"rows={file}", "reward=function", f"reward.function={__name__}:verbosity"])
    said = capsys.readouterr().out
    assert "accuracy 75.0, 95% interval 30.1 to 95.4; calibration error" in said
    [overall] = [line for line in said.splitlines() if " overall " in line]
    assert [cell.strip() for cell in overall.split("\u2502")[1:-1]] == ["overall", "4", "75.0", "50.0"]
    assert "chance is one of two" in said


def test_plain_pairs_without_the_benchmark_are_refused_with_the_setting(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "pairs.jsonl", [{"prompt": "A fruit?", "chosen": "A plum.", "rejected": "Lamp"}])
    with pytest.raises(ValueError, match="benchmark=pairs"):
        bench(f"rows={file}", "reward=function", f"reward.function={__name__}:verbosity")
    with pytest.raises(ValueError, match="benchmark=pairs needs a file of pairs"):
        bench("benchmark=pairs", "reward.path=org/rm")


def test_saved_scores_leave_a_run_and_may_be_csv(tmp_path: Path) -> None:
    saved = [scored("Math", "1", [2.0, 1.0, 0.5, 0.25]), scored("Math", "2", [0.0, 1.0, 0.5, 0.25])]
    (tmp_path / "scores.csv").write_text('id,subset,num_correct,scores\n1,Math,1,2;1;0.5;0.25\n2,Math,1,"[0, 1, 0.5, 0.25]"\n')
    first, second = bench(f"from_scores={jsonl(tmp_path / 's.jsonl', saved)}"), bench(f"from_scores={tmp_path / 'scores.csv'}")
    assert first["row_results"] == second["row_results"] == [1.0, 0.0]
    final = read_record(Path(first["dir"]))["final"]
    # Of 1 and 0 the standard deviation is sqrt(1/2), that of their mean 1/2.
    assert final["rewardbench2_se/math"] == final["rewardbench2_se/mean_of_1_math"] == pytest.approx(0.5, rel=0.1)
    assert {name: final[name] for name in final if "_se/" not in name} == {"rewardbench2/math": 0.5, "rewardbench2/mean_of_1_math": 0.5}
    assert Path(first["dir"], "rows.parquet").is_file()
    (tmp_path / "pairs.csv").write_text("subset,chosen,rejected\ndonotanswer,1.5,0.5\ndonotanswer,0,1\n")
    assert bench("benchmark=rewardbench1", f"from_scores={tmp_path / 'pairs.csv'}")["sections"]["Safety"] == 0.5


def test_a_table_counts_rows_and_says_what_chance_scores(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(BenchJob, _command, [f"rows={rows}", "reward=function", f"reward.function={__name__}:verbosity"])
    said = capsys.readouterr().out
    [math] = [line for line in said.splitlines() if " Math " in line]
    assert [cell.strip() for cell in math.split("\u2502")[1:-1]] == [
        "Math",
        "1",
        "100.0",
        "20.2",
        "25.0",
    ]  # Wilson: 1 of 1 is 20.7% to 100%
    assert "Points of 100" in said


def test_a_sweep_of_benchmarks_ends_in_one_table_and_a_csv(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    functions = f"reward.function={__name__}:verbosity,{__name__}:brevity"
    monkeypatch.setattr(sys, "argv", ["rewardloop bench", "-m", f"rows={rows}", "reward=function", functions])
    main()
    assert "2 results, points of 100" in capsys.readouterr().out
    with (tmp_path / "runs" / "default" / "sweep-bench.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["Math"], row["benchmark"]) for row in table] == [("1.0", "rewardbench2"), ("0.0", "rewardbench2")]


def test_benchmarks_side_by_side_end_in_the_same_table(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def together(name: str, jobs: Sequence[BenchJob], overrides: Sequence[Sequence[str]]) -> list[JobOutcome]:
        done = [JobOutcome(status=JobStatus.finished, record=run(composed(BenchJob, own), NoProgress())) for own in overrides[:2]]
        return [*done, JobOutcome(status=JobStatus.failed, message="no such function (see bench-3.log)")]

    monkeypatch.setattr("launch.parallel.sweep_jobs.run_together", together)
    functions = f"reward.function={__name__}:verbosity,{__name__}:brevity,{__name__}:nothing"
    monkeypatch.setattr(sys, "argv", ["rewardloop bench", "-m", f"rows={rows}", "reward=function", functions, "parallel=2"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "2 results, points of 100" in said.out
    assert "1 of 3 jobs failed" in said.err
    with (tmp_path / "runs" / "default" / "sweep-bench.csv").open() as file:
        table = [(row["Math"], row["status"], row["message"]) for row in csv.DictReader(file)]
    assert table == [("1.0", "finished", ""), ("0.0", "finished", ""), ("", "failed", "no such function (see bench-3.log)")]
    assert f"{__name__}:nothing" in said.out
