"""`rewardloop bench compare`: the places that rows are found in, what is printed and written, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.disk import write_json
from core.records import ScoredRow
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.rows import ScoredBenchmark, write_rows
from launch.jobs.compare import SEED_NOISE, main, read_side, rows_file


def math_rows(wins: int, num_rows: int = 40) -> list[ScoredRow]:
    return [ScoredRow(id=f"m{n}", subset="Math", num_correct=1, scores=(2.0, 1.0 if n < wins else 3.0)) for n in range(num_rows)]


def all_domains(wins: int) -> list[ScoredRow]:
    rows = [
        ScoredRow(id=f"r{n}", subset=subset, num_correct=1, scores=(2.0, 1.0 if n < wins else 3.0))
        for subset in v2.DOMAINS.values()
        if subset != "Ties"
        for n in range(20)
    ]
    for n in range(20):
        wrong = 0.0 if n < wins else 3.0
        rows.append(ScoredRow(id=f"tied:{n}", subset="Ties", num_correct=2, scores=(1.0, 1.0, wrong)))
        rows.append(ScoredRow(id=f"ref:{n}", subset="Ties", num_correct=1, scores=(1.0, wrong)))
    return rows


def table(path: Path, rows: Sequence[ScoredRow], credits: Sequence[float | None] | None = None) -> str:
    scored = ScoredBenchmark(rows=tuple(rows), details=(None,) * len(rows))
    write_rows(path, scored, v2.scores(rows).row_results if credits is None else credits)
    return str(path)


def lines(path: Path, rows: Sequence[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_are_found_in_a_table_beside_a_result_in_a_folder_and_in_a_run(tmp_path: Path) -> None:
    alone = table(tmp_path / "alone.parquet", math_rows(1))
    assert rows_file(alone) == Path(alone)
    table(tmp_path / "result.parquet", math_rows(1))
    (tmp_path / "result.json").write_text("{}")
    assert rows_file(str(tmp_path / "result.json")) == tmp_path / "result.parquet"
    table(tmp_path / "folder" / "rows.parquet", math_rows(1))
    assert rows_file(str(tmp_path / "folder")) == tmp_path / "folder" / "rows.parquet"
    evals = tmp_path / "run" / "evals"
    # The last checkpoint by number: as text, step-1000000 would come before step-999999.
    for name in ("step-999999.rewardbench2", "step-1000000.rewardbench2", "step-2000000.rewardbench1"):
        table(evals / f"{name}.parquet", math_rows(1))
    assert rows_file(str(tmp_path / "run")) == evals / "step-1000000.rewardbench2.parquet"
    for file in evals.glob("*.rewardbench2.parquet"):
        file.unlink()
    assert rows_file(str(tmp_path / "run")) == evals / "step-2000000.rewardbench1.parquet"


def test_the_rows_of_a_finished_run_are_those_of_the_best_step_in_its_record_or_none(tmp_path: Path) -> None:
    run = tmp_path / "run"
    table(run / "evals" / "step-000002.rewardbench2.parquet", math_rows(1))
    record = {"id": "0123abcd", "job": "rm", "identity": {}, "step": 4}
    write_json(run / "record.json", {**record, "status": "running"})
    assert rows_file(str(run)).name == "step-000002.rewardbench2.parquet"
    write_json(run / "record.json", {**record, "status": "finished"})
    with pytest.raises(ValueError, match=r"run has step 4 as its best, whose rows are missing; .*step-000002\.rewardbench2\.parquet\."):
        rows_file(str(run))


def test_scores_may_be_one_json_array(tmp_path: Path) -> None:
    rows = [{"id": "a", "subset": "Math", "num_correct": 1, "scores": [2.0, 1.0]}]
    (tmp_path / "scores.json").write_text(json.dumps(rows, indent=1))
    assert [row.scores for row in read_side(str(tmp_path / "scores.json")).rows] == [(2.0, 1.0)]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("missing.parquet", "missing.parquet does not exist; give a file of scores, a result, or a run by folder, id or name"),
        ("bare", "bare holds neither rows.parquet nor evals/step-*.rewardbench2.parquet"),
        ("lonely.json", "lonely.parquet must be there, or name the file with the rows"),
        ("torn.jsonl", "torn.jsonl, row 1 is no JSON"),
        ("empty.jsonl", "empty.jsonl contains no rows"),
        ("broken.jsonl", "broken.jsonl, row 1: 'num_correct' is missing"),
        ("other.parquet", "other.parquet, row 1: 'scores' is missing"),
        ("noise.parquet", "noise.parquet is no parquet file"),
        ("elsewhere.jsonl", "share no row with the same subset and id"),
    ],
)
def test_bad_input_ends_with_2_and_one_message_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, message: str
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "bare").mkdir()
    (tmp_path / "lonely.json").write_text("{}")
    (tmp_path / "torn.jsonl").write_text('{"id": ')
    (tmp_path / "empty.jsonl").write_text("")
    lines(tmp_path / "broken.jsonl", [{"id": "1", "subset": "Math", "scores": [1.0]}])
    pq.write_table(pa.Table.from_pylist([{"prompt": "a"}]), tmp_path / "other.parquet")
    (tmp_path / "noise.parquet").write_bytes(b"noise")
    lines(tmp_path / "elsewhere.jsonl", [{"id": "1", "subset": "Focus", "num_correct": 1, "scores": [1.0, 0.0]}])
    good = table(tmp_path / "good.parquet", math_rows(3))
    for argv in ([str(tmp_path / place), good], [good, str(tmp_path / place)]):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
        output = capsys.readouterr()
        assert message in output.err
        assert output.err.startswith("rewardloop: bench compare: ")
        assert output.out == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a"], "two score files are needed, got 1"),
        (["a", "b", "c"], "two score files are needed, got 3"),
        (["a", "b", "flips=many"], "flips=many is no number of rows"),
        (["a", "b", "flips=-1"], "flips=-1 is no number of rows"),
        (["a", "b", "out=table.csv"], "out=table.csv names no JSON file"),
        (["a", "b", "fips=3"], "the option fips=3 is unknown"),
        (["a", "b", "--all"], "the option --all is unknown"),
    ],
)
def test_a_wrong_command_line_is_refused_with_the_usage_or_the_remedy(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_help_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert capsys.readouterr().out.startswith("usage: rewardloop bench compare A B")


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_table_shows_every_domain_and_overall_within_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main([table(tmp_path / "a.parquet", all_domains(20)), table(tmp_path / "b.parquet", all_domains(8)), "flips=3"])
    output = capsys.readouterr().out
    shown = [words(line) for line in output.splitlines()]
    # a wins all 20 rows, b 8: 60 points apart, and a wins the other 12. Ties: a is perfect; b scores 8 pairs of 20 like a, and
    # -0.01 on the rest, (8 * 1.01 - 12 * 0.01) / 20 = 0.398.
    for domain in list(v2.DOMAINS.values())[:-1]:
        (line,) = [line for line in shown if line.startswith(f"{domain} 20 ")]
        assert line.startswith(f"{domain} 20 100.0 40.0 +60.0 ")
        assert line.endswith(" 12/0 more than noise")
    (ties,) = [line for line in shown if line.startswith("Ties 40 ")]
    assert ties.startswith("Ties 40 101.0 39.8 +61.2 ")
    assert ties.endswith(" 24/0 more than noise")
    (overall,) = [line for line in shown if line.startswith("Overall 140 ")]
    assert overall.startswith("Overall 140 100.2 40.0 +60.2 ")
    assert f"A {tmp_path / 'a.parquet'}" in shown
    assert f"B {tmp_path / 'b.parquet'}" in shown
    assert words(SEED_NOISE) in words(output)
    assert "(3 of 84)" in output
    assert shown[-3:] == ["Factuality r8 1 0", "Factuality r9 1 0", "Factuality r10 1 0"]


def test_what_cannot_be_compared_is_said_and_flips_0_lists_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ties = ScoredRow(id="ref:1", subset="Ties", num_correct=1, scores=(1.0, 0.0))
    a, b = [*math_rows(30), ties], [*math_rows(30, 35)[5:], ties]
    main([table(tmp_path / "a.parquet", a), table(tmp_path / "b.parquet", b), "flips=0"])
    output = words(capsys.readouterr().out)
    assert "on the 31 rows that both models scored; left out: 10 rows that only A has, 0 that only B has" in output
    assert "A: Ties rows with no partner" in output
    assert "No overall. Overall is the mean of all six domains" in output
    assert "within noise" in output
    assert "Flipped rows" not in output


def test_without_all_domains_the_last_line_is_the_mean_of_those_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (
        table(tmp_path / name, [row for row in all_domains(wins) if row.subset != "Precise IF"])
        for name, wins in (("a.parquet", 20), ("b.parquet", 8))
    )
    main([a, b])
    output = words(capsys.readouterr().out)
    # The label is folded: the table fits into a terminal of 80 columns. Ties has more points than 100 for a margin.
    assert " 120 100.2 40.0 +60.2 " in output
    assert "No overall. Overall is the mean of all six domains, but Precise IF cannot be compared." in output


def test_the_comparison_is_written_with_all_its_flips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = table(tmp_path / "a.parquet", math_rows(30)), table(tmp_path / "b.parquet", math_rows(20))
    main([a, b, f"out={tmp_path / 'deep' / 'c.json'}", "flips=1"])
    written = json.loads((tmp_path / "deep" / "c.json").read_text())
    assert (written["a"], written["b"]) == (a, b)
    assert written["lines"][0]["difference"] == pytest.approx(0.25)
    assert len(written["flips"]) == 10
    assert "(1 of 10)" in capsys.readouterr().out


def test_score_files_of_both_benchmarks_are_compared_with_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": f"m{n}", "subset": "math", "num_correct": 1, "scores": [1.0, 0.0]} for n in range(40)]
    main([lines(tmp_path / "a.jsonl", rows), table(tmp_path / "b.parquet", math_rows(40))])
    assert "Math 40 100.0 100.0 +0.0" in words(capsys.readouterr().out)

    subsets = [subset for section in v1.COUNTS.values() for subset in section]
    pairs = [{"id": "1", "subset": subset, "chosen": 1.0, "rejected": 0.0} for subset in subsets]
    draws = [ScoredRow(id="1", subset=subset, num_correct=1, scores=(5.0, 5.0)) for subset in subsets]
    judged = table(tmp_path / "judge.parquet", draws, v1.scores(draws, generative=True).row_results)
    scored = table(tmp_path / "model.parquet", draws, v1.scores(draws).row_results)
    for file, score in ((judged, "50.0 +50.0"), (scored, "0.0 +100.0")):
        main([lines(tmp_path / "p.jsonl", pairs), file])
        output = words(capsys.readouterr().out)
        assert f"Chat Hard 6 100.0 {score}" in output
        assert f"Chat 5 100.0 {score} n/a 0.0625 5/0 cannot tell" in output
        width = score.split()[-1]  # all 23 differ by as much
        assert f"Overall 23 100.0 {score} {width}, {width} 0.0002 23/0 more than noise" in output


def test_names_with_brackets_and_equals_signs_are_shown_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = ScoredRow(id="[bold]1", subset="[red]mine", num_correct=1, scores=(1.0, 0.0))
    a = table(Path("lr=1e-3[a].parquet"), [row])
    b = table(Path("b.parquet"), [ScoredRow(id=row.id, subset=row.subset, num_correct=1, scores=(0.0, 1.0))])
    main([a, b])
    output = capsys.readouterr().out
    assert "lr=1e-3[a].parquet" in output
    assert output.count("[red]mine") == 2, "as a domain and with its flipped row"
    assert "[bold]1" in output
