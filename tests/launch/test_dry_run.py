"""A dry run lists its jobs and the runs there are of them, and runs and writes none."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from core.runs.record import fail_run, finish_run, open_run
from launch.compose import command, composed
from launch.schema import BenchJob, BoNJob, PPOJob, RMJob
from launch.sweep import JobOutcome, JobStatus, outcome_rows, print_plan, states_of
from tests.launch.sweeps import OWN, code_of, never, opened

pytestmark = pytest.mark.usefixtures("alone")


def test_a_dry_run_lists_every_job_and_runs_and_writes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(never, ["-m", *OWN, "optim.lr=1e-4,1e-5", "seed=range(0,2)", "dry_run=true"]) == 0
    said = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]
    assert rows[:4] == [["1", "1e-4", "0", "new"], ["2", "1e-4", "1", "new"], ["3", "1e-5", "0", "new"], ["4", "1e-5", "1", "new"]]
    assert ["model.path", "org/base"] in rows
    assert "4 jobs" in said
    assert list(tmp_path.iterdir()) == []


def test_what_conf_chooses_for_a_command_is_no_setting_of_the_user_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(never, ["reward.path=org/rm", "dry_run=true"], schema=BenchJob) == 0
    assert "tracker" not in capsys.readouterr().out  # bench writes to files alone unless told otherwise, rm to W&B
    assert code_of(never, [*OWN, "tracker=files", "dry_run=true"]) == 0
    assert "tracker.mode" in capsys.readouterr().out


def test_a_dry_run_of_one_job_lists_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(never, ["reward.path=some/rm", "tasks=none", "dry_run=true"], schema=PPOJob) == 0
    said = capsys.readouterr().out
    assert "some/rm" in said
    assert "1 job;" in said
    assert "note: world=runs/demo/world-0 does not exist" in said  # a dry run may be made elsewhere, so it goes on
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "best_metric=downstream/average needs a task, and there is none; add one (tasks=gsm8k"),
        (
            ["tasks=gsm8k", "tasks.gsm8k.path=a.jsonl", "best_metric=downstream/math"],
            "best_metric=downstream/math is not measured; choose one of downstream/average, downstream/gsm8k, or rm_score.",
        ),
    ],
)
def test_a_policy_chosen_by_a_task_that_it_lacks_is_told_in_a_dry_run_and_refused_in_a_run(
    overrides: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["model=custom", "model.path=org/base", "reward.path=some/rm", "prompts=[p.jsonl]", *overrides]
    assert code_of(never, [*chosen, "dry_run=true"], schema=PPOJob) == 0
    assert f"note: {said}" in capsys.readouterr().out
    assert code_of(never, chosen, schema=PPOJob) == 2
    assert said in capsys.readouterr().err
    assert code_of(lambda _: None, [*chosen, "best_metric=rm_score"], schema=PPOJob) == 0


def test_a_dry_run_refuses_what_a_run_would(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(never, ["-m", *OWN, "epochs=1,0", "dry_run=true"]) == 2
    assert "epochs is 0" in capsys.readouterr().err


@pytest.mark.parametrize("width", [10_000, 60])
def test_no_cell_of_a_table_is_cut(width: int) -> None:
    name = "a-very-long-name-" * 12
    text = io.StringIO()
    print_plan("rm", command(RMJob, [*OWN, f"name={name},b"], multirun=True).jobs, Console(file=text, width=width))
    assert "…" not in text.getvalue()
    cells = [line.split("│") for line in text.getvalue().splitlines() if line.startswith("│")]
    assert name in "".join(cell[2].strip() for cell in cells if len(cell) == 5)


def test_the_console_command_lists_the_papers_grid_without_torch_or_network(tmp_path: Path) -> None:
    script = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
        "from launch.cli import main\n"
        "main()\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, "rm", "-m", "experiment=rb2_rm_grid", "dry_run=true"], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows[:90]] == [str(number) for number in range(1, 91)]
    assert rows[0] == ["1", "allenai/Llama-3.1-Tulu-3-8B-SFT", "tulu", "1e-6", "1", "new"]
    assert rows[89] == ["90", "Qwen/Qwen2.5-7B-Instruct", "both", "2e-5", "2", "new"]
    for name in ("allenai/llama-3.1-tulu-3-8b-preference-mixture", "Skywork/Skywork-Reward-Preference-80K-v0.2", "allenai/reward-bench-2"):
        assert name in ended.stdout
    assert "90 jobs" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_knows_the_runs_of_its_jobs_by_their_settings() -> None:
    overrides = [*OWN, "study=S 1", "tracker=files"]
    finished, torn = (opened(composed(RMJob, [*overrides, f"epochs={epochs}"])) for epochs in (1, 2))
    finish_run(finished)
    fail_run(torn, "out of memory")
    jobs = command(RMJob, [*overrides, "epochs=1,2,3", "tracker=wandb", "dry_run=true"], multirun=True).jobs
    assert states_of("rm", jobs) == [  # where metrics go makes no other run
        {"state": "finished", "run": str(finished.dir)}, {"state": "failed", "run": str(torn.dir)}, {"state": "new", "run": ""},
    ]  # fmt: skip
    other = command(RMJob, [*overrides, "epochs=1", "data.flip=1.0"], multirun=False).jobs
    assert states_of("rm", other) == [{"state": "new"}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("record.json", b"", "record.json is empty"),
        ("record.json", b"[]", "record.json holds no JSON object but a list"),
        ("config.yaml", b"a: [", "config.yaml is no YAML"),
        ("config.yaml", b"\xff\x00", "config.yaml is no YAML"),
    ],
)
def test_a_dry_run_leaves_out_a_run_whose_files_cannot_be_read_with_a_line(
    name: str, content: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = composed(RMJob, OWN)
    run = opened(job)
    fail_run(run, "end of test")
    (run.dir / name).write_bytes(content)
    assert states_of("rm", [job.job]) == [{"state": "new"}]
    said = capsys.readouterr().out
    assert said.startswith(f"note: {run.dir.name} is not looked at: ")
    assert words in said
    assert said.count("\n") == 1


def test_a_run_kept_before_a_key_existed_is_known_by_its_default() -> None:
    job = composed(RMJob, OWN)
    run = opened(job)
    file = run.dir / "config.yaml"
    file.write_text("".join(line for line in job.yaml.splitlines(True) if not line.startswith(("log_every", "dry_run"))))
    assert states_of("rm", [job.job]) == [{"state": "torn", "run": str(run.dir)}]
    assert states_of("rm", [composed(RMJob, [*OWN, "log_every=3"]).job]) == [{"state": "new"}]


def test_jobs_without_runs_have_no_state() -> None:
    assert states_of("bench", [composed(BenchJob, ["reward.path=org/rm"]).job]) == []


def test_a_sweep_of_best_of_n_names_the_folder_of_a_failed_job_and_has_one_column_for_what_it_measures_once() -> None:
    failed, done = (composed(BoNJob, ["study=s", f"pool.seed={seed}"]) for seed in (1, 2))
    run, _ = open_run(runs_dir=Path("runs"), study="s", job="bon", name="pool", identity={"seed": 1}, config_yaml=failed.yaml)
    fail_run(run, "no such tokenizer")
    outcomes = [
        JobOutcome(status=JobStatus.failed, message="no such tokenizer"),
        JobOutcome(status=JobStatus.finished, record={"final": {"bon/average": 0.625}}),
    ]
    rows = outcome_rows("bon", [failed.job, done.job], outcomes)
    assert [(row["bon/average"], row["dir"]) for row in rows] == [(None, str(run.dir)), (0.625, None)]
    assert not any(key.endswith((" best", " last")) for key in rows[0])
