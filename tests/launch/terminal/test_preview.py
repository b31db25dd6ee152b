"""A dry run reads what is on this machine and says what a run would do; what it cannot read is a note."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bon.config import MANIFEST
from core.disk import mark_complete, write_json
from core.progress import NoProgress
from core.runs.record import open_run, stop_run
from launch.bench import run as run_bench
from launch.compose import composed
from launch.identity import hashed_settings
from launch.schema import BenchJob, BoNJob, PPOJob, RMJob, StudyJob
from launch.terminal import found_here
from launch.terminal import preview as preview_module
from launch.terminal.preview import of_jobs, of_study, preview
from tests.launch.sweeps import code_of, never

pytestmark = pytest.mark.usefixtures("alone")


def write_pairs(path: Path, *lengths: int) -> None:
    """A pair with as many characters in its answer as each of `lengths`."""
    rows = [{"prompt": f"Q{i}", "chosen": "a" * length, "rejected": "b"} for i, length in enumerate(lengths)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_model(folder: Path, *shape: int) -> None:
    """A model folder whose one tensor has this shape; its data is not there, since only the header is read."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def job_of(tmp_path: Path, *overrides: str) -> RMJob:
    own = ["model=custom", f"model.path={tmp_path / 'model'}", "data=custom", f"data.paths={tmp_path / 'pairs.jsonl'}"]
    return composed(RMJob, [*own, "tracker=files", "model.lineage=base", *overrides]).job


def test_a_reward_model_s_pairs_steps_tokens_and_disk_are_told(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 38, 38, 38, 398, 38)  # of 10, 10, 10, 100 and 10 tokens at 4 characters each
    write_model(tmp_path / "model", 1000, 250)
    lines = preview(job_of(tmp_path, "max_length=50", "batch_size=2", "epochs=3", "num_checkpoints=2"))
    assert "pairs: 5 to train on, 0 held out, of 5 rows" in lines
    assert "warning: about 1 of 5 pairs are longer than max_length=50 tokens (drop); raise max_length." in lines
    # 4 pairs are 2 batches in each of 3 epochs; 3 x 4 pairs x 2 sides x 10 tokens
    assert "steps: about 6 of 2 pairs, about 240 tokens (at 4 characters each)" in lines
    assert "checkpoints: 2, at 3, 6, 1 MB each; the newest two also hold 2 MB of optimiser state" in lines
    assert [line for line in lines if line.startswith("warning: 4 pairs make 6 steps")]


def test_where_all_pairs_are_too_long_the_dry_run_says_that_nothing_is_left_and_counts_no_steps(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 38, 398)  # of 10 and 100 tokens
    write_model(tmp_path / "model", 1000, 250)
    lines = preview(job_of(tmp_path, "max_length=5", "batch_size=2"))
    [warning] = [line for line in lines if line.startswith("warning: ")]
    assert "all 2 pairs seem longer than max_length=5 tokens and would be dropped, so nothing would be left to train on" in warning
    assert "raise max_length (the shortest pair has about 10, the longest 100), or cut their prompts (overlong=cut)" in warning
    assert not [line for line in lines if line.startswith(("steps: ", "checkpoints: "))]
    assert [line for line in preview(job_of(tmp_path, "max_length=5", "batch_size=2", "overlong=cut")) if line.startswith("steps: ")]


def test_a_packaged_model_that_was_never_used_says_why_its_sizes_and_folder_are_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (found_here, preview_module):
        monkeypatch.setattr(module, "CONVERTED", tmp_path / "smollm2")
    write_pairs(tmp_path / "pairs.jsonl", 4, 4)
    lines = preview(composed(RMJob, ["model=smollm2", "data=custom", f"data.paths={tmp_path / 'pairs.jsonl'}"]).job)
    assert "pairs: 2 to train on, 0 held out, of 2 rows" in lines
    assert not [line for line in lines if line.startswith("folder: ")]
    assert [line for line in lines if line.startswith("note: model.path=pip:smollm2-135m is converted when it is first used")]


def write_rows(path: Path) -> None:
    """Six rows of two domains, each of 4 texts of 10 characters after a prompt of 10."""
    texts = [f"{'x' * 9}{number}" for number in range(4)]
    rows = [
        {"id": f"{subset}{place}", "subset": subset, "prompt": "p" * 10, "chosen": texts[:1], "rejected": texts[1:]}
        for subset in ("Math", "Safety")
        for place in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# Pairs have 43 characters padded (Q0 twice, 38 and 1), but for one of 100 tokens that does not fit into 50; a row has 80. Training between
# two checkpoints, 2 of 4 epochs, passes 4 x 43 x 3 x 2 = 1,032: all 480 of the rows are 47%, and one of each domain, the least, 16%.
LEAST = "leaves about 2 of 6 rows of rewardbench2; they cost about {} of the time of training between two checkpoints"
EXCEEDED = "cannot be held: a row of every domain and task costs about 23% of the time of training between two checkpoints; have fewer of"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, []),
        ({"hooks.budget": "0.5"}, ["hooks.budget=0.5: leaves about all rows; they cost about 47% of the time of training between two"]),
        ({"hooks.budget": "0.2"}, [f"hooks.budget=0.2: {LEAST.format('16%')}"]),
        # An adapter's training takes two passes: 688.
        ({"hooks.budget": "0.2", "lora.rank": "2"}, [f"hooks.budget=0.2: {LEAST.format('23%')}", f"warning: hooks.budget=0.2 {EXCEEDED}"]),
        # The long pair is cut to half: 6 x (172 + 403 / 2) = 2,241, of which 4 rows are 14%.
        ({"hooks.budget": "0.2", "overlong": "cut"}, ["leaves about 4 of 6 rows of rewardbench2; they cost about 14% of the time"]),
        (
            {"hooks.budget": "0.2", "hooks.pools": "gone"},
            ["each checkpoint is measured on as many rows as cost 20% of the time of training"],
        ),
        ({"hooks.budget": "0.2", "hooks.rewardbench2": "''"}, ["hooks.budget=0.2: there is nothing that the hooks score"]),
        ({"hooks.budget": "0.2", "data.validation": "org/pairs"}, ["how many cannot be told, as pairs, rows or pools are not all here"]),
    ],
)
def test_what_a_budget_leaves_of_the_hooks_rows_is_told_where_it_can_be(tmp_path: Path, settings: dict[str, str], told: list[str]) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 38, 38, 38, 398, 38)
    write_model(tmp_path / "model", 10)
    write_rows(tmp_path / "rows.jsonl")
    own = {"max_length": "50", "batch_size": "2", "epochs": "4", "num_checkpoints": "2", "hooks.rewardbench2": f"{tmp_path}/rows.jsonl"}
    job = job_of(tmp_path, *(f"{key}={value}" for key, value in (own | settings).items()))
    lines = [line for line in preview(job) if "hooks.budget" in line]
    assert len(lines) == len(told)
    assert all(expected in line for expected, line in zip(told, lines, strict=True)), lines


def test_checkpoints_are_counted_in_the_dtype_that_they_are_saved_in(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", *(30 + 10 * number for number in range(5)))
    write_model(tmp_path / "model", 1000, 250)
    # 2 bytes a weight; to resume take 4 for the weight itself and 4 for each of its moments
    told = "checkpoints: 1, at 1, 500 kB each; the newest two also hold 3 MB of optimiser state"
    for overrides in (["model.dtype=bf16"], ["export_dtype=bf16"]):
        assert told in preview(job_of(tmp_path, "num_checkpoints=1", *overrides))
    adapter = preview(job_of(tmp_path, "num_checkpoints=1", "lora.rank=2"))
    assert "checkpoints: 1, at 1" in adapter


def test_what_a_run_took_is_told_of_the_newest_with_the_same_model_and_settings_that_take_as_long(tmp_path: Path) -> None:
    write_model(tmp_path / "model", 1000, 2)
    write_pairs(tmp_path / "pairs.jsonl", *[40] * 100)

    def told(*overrides: str) -> list[str]:
        return [line for line in preview(job_of(tmp_path, f"runs_dir={tmp_path}/runs", *overrides)) if line.startswith("time: ")]

    def finished(name: str, day: int, model: str, *overrides: str, seconds: float) -> None:
        folder = tmp_path / "runs" / "default" / f"rm-{name}"
        folder.mkdir(parents=True)
        identity = json.loads(json.dumps(hashed_settings(job_of(tmp_path, *overrides))))
        identity["hooks"].pop("limit")  # as of a version that had no such key
        record = {"id": name, "job": "rm", "status": "finished", "identity": identity, "lineage": {"model": model}}
        write_json(folder / "record.json", {**record, "finished": f"2026-01-0{day}", "train_s": seconds, "hooks_s": seconds / 4})

    assert told() == []
    finished("other-model", 4, "elsewhere/model", seconds=9000)
    finished("longer", 3, f"{tmp_path}/model", "epochs=3", seconds=300)
    assert told() == [f"time: not known; no finished run of {tmp_path}/runs/default has this model and settings that take as long"]
    finished("older", 1, f"{tmp_path}/model", seconds=80)
    finished("newer", 2, f"{tmp_path}/model", "optim.lr=1e-4", seconds=100)
    assert told() == ["time: rm-newer took 100 s, 25% of them in hooks"]
    assert told("epochs=3") == ["time: rm-longer took 300 s, 25% of them in hooks"]


def test_what_is_missing_broken_or_elsewhere_is_a_note(tmp_path: Path) -> None:
    assert [line for line in preview(job_of(tmp_path)) if line.endswith("pairs.jsonl does not exist here")]
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Q"}\n')
    assert [line for line in preview(job_of(tmp_path)) if "this would not start" in line and "1 broken row(s)" in line]
    hub = composed(RMJob, ["model=custom", "model.path=org/base", "data=custom", "data.paths=org/pairs"]).job
    said = preview(hub)
    assert "note: model.path=org/base lies on a hub and was not looked at" in said
    assert "note: org/pairs lies on a hub and was not looked at, nor were its rows" in said


def test_a_policy_and_pools_are_told_by_their_answers(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 4, 4, 4, 4)
    write_model(tmp_path / "model", 10)
    own = ["model=custom", f"model.path={tmp_path / 'model'}", "tasks=gsm8k", f"tasks.gsm8k.path={tmp_path / 'tasks.jsonl'}"]
    (tmp_path / "tasks.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    rewarded = ["reward.path=org/rm", f"prompts={tmp_path / 'pairs.jsonl'}", "num_batches=3", "batch_size=64"]
    lines = preview(composed(PPOJob, [*own, *rewarded]).job)
    assert "prompts: 4, each asked 48 times" in lines  # 3 x 64 / 4
    assert "tasks: gsm8k (1 prompts)" in lines
    assert "batches: 3 of 64 answers, 6 updates, up to 197 k tokens to sample" in lines  # 3 x 64 x 1024
    assert not [line for line in lines if "hooks.budget" in line]
    budget = ["hooks.budget=0.1", "num_checkpoints=3"]
    (line,) = [line for line in preview(composed(PPOJob, [*own, *rewarded, *budget]).job) if line.startswith("hooks.budget")]
    assert "of 1 prompts of tasks as many are measured from then on as take 10% of the time of drawing the 64 answers between two" in line
    pools = preview(composed(BoNJob, [*own, "pool.n=4"]).job)
    assert "pools: 4 answers for gsm8k (1 prompts), up to 4.1 k tokens to sample" in pools


def test_what_all_jobs_of_a_sweep_share_is_said_once(tmp_path: Path) -> None:
    jobs = [job_of(tmp_path, f"epochs={epochs}") for epochs in (1, 2)]
    assert len([line for line in of_jobs(jobs) if "pairs.jsonl does not exist" in line]) == 1


def test_a_dry_study_lists_its_jobs_and_runs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = of_study(composed(StudyJob, ["experiment=demo"]))
    assert lines[0].startswith("20 jobs: 1 world, 2 policy, 1 pools, 3 ppo, 13 rm")
    assert code_of(never, ["experiment=demo", "dry_run=true"], schema=StudyJob) == 0
    assert "rm-13: ridge on harbor, lr 0.001, epochs 1 (after policy-ridge, pools)" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    broken = composed(StudyJob, ["experiment=demo", "ppo.flipped.reward.lineage=other"])
    assert of_study(broken)[0].startswith("note: this would not start: ppo.flipped")


def test_pools_that_a_study_draws_first_are_no_obstacle_to_its_reward_models(tmp_path: Path, policy_folder: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 4, 4)
    (tmp_path / "gsm8k.jsonl").write_text('{"question": "2 + 2?", "answer": "#### 4"}\n')
    pools = tmp_path / "pools"
    own = ["study=s", f"common=['model=custom','model.path={policy_folder}','tasks=gsm8k','tasks.gsm8k.path={tmp_path / 'gsm8k.jsonl'}']"]
    own += [f"pools=['pools={pools}','pool.n=2']"]
    models = f"data=custom data.paths=[{tmp_path / 'pairs.jsonl'}] data.name=mine hooks.pools="
    lines = of_study(composed(StudyJob, [*own, f"reward_models=['{models}{pools}']"]))
    assert "pairs: 2 to train on, 0 held out, of 2 rows" in lines
    assert not [line for line in lines if "would not start" in line]
    lines = of_study(composed(StudyJob, [*own, f"reward_models=['{models}{tmp_path / 'others'}']"]))
    assert [line for line in lines if f"would not start: hooks.pools={tmp_path / 'others'}" in line]


def length(prompts: Sequence[Any], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    """A reward for `reward=function`."""
    return [[float(len(text)) for text in answers] for answers in completions]


def test_a_benchmark_is_told_by_its_rows_its_reward_and_the_run_that_is_there(tmp_path: Path) -> None:
    rows = [{"id": n, "prompt": "Q" * 20, "chosen": ["a" * 20], "rejected": ["b" * 60, "c"], "subset": "Math"} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["reward=function", f"reward.function={__name__}:length", f"rows={tmp_path / 'rows.jsonl'}", "max_length=15", "dry_run=true"]
    lines = preview(composed(BenchJob, own).job)
    # Each prompt of 20 characters before 20, 60 and 1 more, at 4 a token: 10 + 20 + 5.25, three times; the second is above 15.
    assert lines[0] == "rows: 3 (3 Math), 9 texts to score, about 106 tokens without sharing prompts"
    assert lines[1] == "about 3 of 9 texts are longer than max_length=15 tokens, and would be cut at their end"
    assert lines[2] == f"reward: {__name__}:length"
    assert lines[3].startswith("folder: runs/default/bench-rewardbench2-tests.launch.terminal.test_preview-length-")


def test_saved_scores_are_told_and_a_finished_run_of_them_is(tmp_path: Path) -> None:
    rows = [{"id": str(n), "subset": "Math", "num_correct": 1, "scores": [1.0, 0.0]} for n in range(3)]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before, scored = (composed(BenchJob, [f"from_scores={tmp_path / 'scores.jsonl'}", f"dry_run={dry}"]) for dry in ("true", "false"))
    told, folder = preview(before.job)
    assert told == "scores: 3 rows; no model is needed"
    assert folder.startswith("folder: runs/default/bench-rewardbench2-scores-")
    run_bench(scored, NoProgress())
    assert preview(before.job) == [told, f"{folder} (finished, and not run again)"]


def test_a_benchmark_of_what_is_not_there_or_lies_on_a_hub_is_a_note(tmp_path: Path) -> None:
    said = preview(composed(BenchJob, ["reward.path=org/rm"]).job)
    assert said == ["note: allenai/reward-bench-2 lies on a hub and was not looked at, nor were its rows"] or said[0].startswith(
        "note: allenai/reward-bench-2"
    ), said
    assert [
        line for line in preview(composed(BenchJob, ["reward.path=nowhere"]).job) if "this would not start: reward.path=nowhere" in line
    ]


def test_a_policy_s_run_has_its_folder_and_a_reward_that_does_not_work_is_a_note(tmp_path: Path, policy_folder: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 4, 4)
    own = ["model=custom", f"model.path={policy_folder}", "tasks=none", "best_metric=rm_score", f"prompts={tmp_path / 'pairs.jsonl'}"]
    own += ["reward=function", "dry_run=true"]
    folder = preview(composed(PPOJob, [*own, f"reward.function={__name__}:length"]).job)[-1]
    assert folder.startswith("folder: runs/default/ppo-policy-by-tests.launch.terminal.test_preview-length-")
    told = preview(composed(PPOJob, [*own, f"reward.function={__name__}:length"]).job)
    assert "prompts: 2, each asked 6400 times" in told  # 100 batches of 128
    lines = preview(composed(PPOJob, [*own, f"reward.function={__name__}:absent"]).job)
    assert [line for line in lines if line.startswith("note: this would not start: reward.function does not fit the prompts")]
    assert not [line for line in lines if line.startswith("folder: ")]


def test_pools_that_are_there_with_other_sampling_are_a_note(tmp_path: Path, policy_folder: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    pools = tmp_path / "pools"
    pools.mkdir()
    write_json(pools / MANIFEST, {"tasks": {}, "sampling": {"n": 16, "temperature": 1.0, "max_new_tokens": 1024, "seed": 0}})
    mark_complete(pools)
    own = ["model=custom", f"model.path={policy_folder}", "tasks=gsm8k", f"tasks.gsm8k.path={tmp_path / 'tasks.jsonl'}", f"pools={pools}"]
    other = f"note: this would not start: {pools} holds pools of other sampling (pool.n=4 here and 16 there); "
    assert [line for line in preview(composed(BoNJob, [*own, "pool.n=4"]).job) if line.startswith(other)]
    assert not [line for line in preview(composed(BoNJob, own).job) if line.startswith("note: ")]


def test_a_reward_that_is_the_end_of_a_run_s_name_but_no_run_is_not_taken_for_one(tmp_path: Path, policy_folder: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 4, 4)
    run, _ = open_run(runs_dir=tmp_path / "runs", study="day", job="rm", name="mine", identity={}, config_yaml="")
    stop_run(run, "SIGTERM")
    own = ["model=custom", f"model.path={policy_folder}", "tasks=none", "best_metric=rm_score", f"prompts={tmp_path / 'pairs.jsonl'}"]
    own += [f"runs_dir={tmp_path / 'runs'}", "dry_run=true"]
    for path, told in ((run.id[:4], "which does not exist here"), (run.id, f"would not start: reward.path={run.id} is not a finished run")):
        lines = preview(composed(PPOJob, [*own, f"reward.path={path}"]).job)
        assert [line for line in lines if line.startswith("note: ") and told in line], lines
        assert not [line for line in lines if line.startswith("folder: ")]
