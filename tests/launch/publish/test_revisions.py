"""What is read of runs that are published: places, weights, measurements; what of them nobody else may see, and what is refused."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from core.disk import MARKER
from core.runs.checkpoints import step_folder
from launch.compose import composed
from launch.history.saved_config import saved_job
from launch.identity import unhashed_keys
from launch.overrides.differences import differences
from launch.publish.facts import command_of
from launch.publish.folders import FACTS, RESULTS
from launch.publish.places import public_job
from launch.schema import RMJob
from tests.launch.publish.hub import Hub
from tests.launch.publish.made import LICENSE, branch_of, publish, rows_of, trained

pytestmark = [
    pytest.mark.usefixtures("alone"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # of the hub's client, without its own servers
]
HASH = "ab" * 32


def written(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Publishes without a hub; returns the folder of `main`."""
    assert publish(*arguments, "repo=me/rm", LICENSE, "dry_run=true", monkeypatch=monkeypatch) == 0
    return Path("runs/publish-me-rm/main")


def test_nothing_of_this_machine_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "secrets-of-ada"
    home = f"/home/{secret}"
    run = trained(
        0.5,
        *(f"data.paths=[org/pairs,{secret}/pairs.jsonl]", f"+data.sources={{own:{{path:{home}/own.jsonl}}}}"),
        *(f"model.path={secret}/model", f"hooks.rewardbench1={home}/old.jsonl", f"hooks.pools={secret}/pools"),
        *(f"+tasks.mine.path={home}/task.jsonl", "+tasks.mine.verifier=evalhooks.tasks.verifiers:gsm8k"),
        *(f"data.validation=../{secret}/validation.jsonl", f"data.cache={home}"),
        f"hooks.rewardbench2={secret}/rows.jsonl",
        inputs={
            **{"model.path": HASH, "data.0.pairs": "org/pairs", "data.1.pairs-2": HASH, "data.2.own": HASH, "data.validation": HASH},
            **{"hooks.rewardbench2": HASH, "hooks.rewardbench1": HASH, "hooks.pools": HASH},
        },
        files={
            "config.json": json.dumps({"_name_or_path": f"{home}/m", "text_config": {"_name_or_path": f"{home}/m"}}),
            "tokenizer_config.json": json.dumps({"name_or_path": f"{home}/t", "tokenizer_file": f"{home}/t/tokenizer.json", "unk": "/"}),
            "adapter_config.json": json.dumps({"base_model_name_or_path": home, "r": 4}),
        },
    )
    record = json.loads((run / "record.json").read_text())
    warnings = [{"what": "few", "key": "", "text": f"{home}/pairs.jsonl has few pairs"}]
    (run / "record.json").write_text(json.dumps(record | {"warnings": warnings}))
    folder = written("sweep", "base_model=org/base", "benchmark=org/rows", monkeypatch=monkeypatch)
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.rglob("*") if file.is_file()}
    assert [name for name, text in texts.items() if secret in text] == []
    assert json.loads(texts["config.json"]) == {"_name_or_path": "org/base", "text_config": {"_name_or_path": "org/base"}}
    assert json.loads(texts["tokenizer_config.json"]) == {"name_or_path": "org/base", "tokenizer_file": "tokenizer.json", "unk": "/"}
    assert "datasets:\n- org/pairs\nlanguage" in texts["README.md"]
    assert "model.path=org/base" in texts["README.md"]
    assert "hooks.rewardbench2=org/rows" in texts["README.md"]


def test_what_was_of_the_hub_is_known_from_the_record_and_not_from_what_lies_here(monkeypatch: pytest.MonkeyPatch) -> None:
    trained(0.5, "data.paths=[org/pairs,data/pairs.jsonl]", inputs={"data.0.pairs": "org/pairs", "data.1.pairs-2": HASH})
    Path("org/pairs").mkdir(parents=True)  # which a run reads in place of the dataset, but was not there then
    text = (written("sweep", monkeypatch=monkeypatch) / "README.md").read_text(encoding="utf-8")
    assert "datasets:\n- org/pairs\nlanguage" in text
    assert "'data.paths=[org/pairs,pairs.jsonl]'" in text


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.name='my mix, 50%'", "data.paths=['/home/ada/two words.jsonl']"],
        ["model.chat_template='{% for m in messages %}it\\'s {{ m.content }}\\n{% endfor %}'"],
        ["+data.sources={own:{path:'/home/ada/a b.jsonl',weight:0.5}}", "lora.rank=4", "lora.targets=[q_proj,v_proj]"],
    ],
    ids=["blanks", "template", "sources"],
)
def test_the_command_can_be_pasted_into_a_shell_whatever_its_values_hold(overrides: list[str]) -> None:
    run = trained(0.5, *overrides, inputs={"data.1.own": HASH})
    job = saved_job(run)
    assert isinstance(job, RMJob)
    public = public_job(job, json.loads((run / "record.json").read_text()), base="org/base", benchmark="")
    again = composed(RMJob, shlex.split(command_of(public).replace("\\\n", " "))[2:]).job
    differing = {key for key in differences([public, again]).keys if key not in unhashed_keys(public)}
    assert differing == set()


def test_what_somebody_put_beside_the_weights_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = step_folder(trained(0.5), 5)
    (weights / ".env").write_text("HF_TOKEN=hf_x")
    (weights / "notes.txt").write_text("mine")
    folder = written("sweep", monkeypatch=monkeypatch)
    assert {file.name for file in folder.iterdir()} == {"README.md", "config.json", "model.safetensors", FACTS, ".eval_results"}


def test_a_checkpoint_with_files_that_are_called_like_ours_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = step_folder(trained(0.5, files={"README.md": "theirs", FACTS: "theirs"}), 5)
    folder = written("sweep", monkeypatch=monkeypatch)
    assert "theirs" not in {(folder / name).read_text(encoding="utf-8") for name in ("README.md", FACTS)}
    assert {(weights / name).read_text(encoding="utf-8") for name in ("README.md", FACTS)} == {"theirs"}


def test_a_record_that_was_changed_by_hand_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(0.5)
    (run / "evals").mkdir()
    (run / "evals" / "step-000005.json").write_text(json.dumps({"checkpoint/step": 5, "rewardbench2/overall": 0.5}))
    written("sweep", monkeypatch=monkeypatch)
    record = json.loads((run / "record.json").read_text())
    record["best"]["rewardbench2/overall"] = 0.99
    (run / "record.json").write_text(json.dumps(record))
    assert publish("sweep", "repo=me/rm", LICENSE, "dry_run=true", monkeypatch=monkeypatch) == 2
    assert "record.json has 0.99 as rewardbench2/overall of step 5, and runs/sweep/" in capsys.readouterr().err


def test_settings_that_were_changed_by_hand_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(0.5, "optim.lr=1e-4", identity={"optim": {"lr": 1e-4, "of_another_version": 1}, "model": {"dtype": "fp32"}})
    written("sweep", monkeypatch=monkeypatch)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("lr: 0.0001", "lr: 1.0e-05"))
    assert publish("sweep", "repo=me/rm", LICENSE, "dry_run=true", monkeypatch=monkeypatch) == 2
    assert "config.yaml has optim.lr=1e-05, and record.json, by which the run is known, 0.0001" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"best": {"rewardbench2/overall": "high"}}, "rewardbench2/overall is 'high', which is no number"),
        ({"best_step": "five"}, "names no steps (step=5, best_step='five')"),
        ({"best": [0.5]}, "record.json has best=[0.5], which is no JSON object"),
    ],
)
def test_a_record_that_says_nothing_sensible_is_named(
    changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(0.5, **changes)
    assert publish("sweep", "repo=me/rm", LICENSE, "dry_run=true", monkeypatch=monkeypatch) == 2
    assert said in "".join(capsys.readouterr())


def test_of_a_run_that_kept_its_last_weights_alone_these_are_published_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last = {"rewardbench2/overall": 0.4}
    run = trained(0.5, best_step=3, final=last, checkpoints={"keep": "last", "weights": [5]})
    folder = written("sweep", monkeypatch=monkeypatch)
    assert f"{branch_of(run)}: the best checkpoint (step 3) was not kept; the last one (step 5) is published" in capsys.readouterr().out
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert [row["RewardBench 2 Score"] for row in rows_of(card)] == ["40.0", "40.0"]
    assert f"(of {branch_of(run)} at the last one, since the best was not kept)" in card


def test_weights_on_another_disk_are_published_and_a_link_to_nowhere_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(0.5)
    (run / "checkpoints").rename("disk")
    (run / "checkpoints").symlink_to(Path("disk").absolute())
    assert (written("sweep", monkeypatch=monkeypatch) / "model.safetensors").read_bytes() == b"0.500000000"
    Path("disk").rename("elsewhere")
    assert publish("sweep", "repo=me/rm", LICENSE, "dry_run=true", monkeypatch=monkeypatch) == 2
    assert "checkpoints is a link to" in capsys.readouterr().err


def test_a_run_that_two_studies_have_is_one_revision(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first = trained(0.5)
    second = trained(0.5, study="again")
    assert first.name == second.name
    written("sweep", "again", monkeypatch=monkeypatch)
    assert f"{second} is left out: it is the same run as {first}" in capsys.readouterr().out
    assert {folder.name for folder in Path("runs/publish-me-rm").iterdir() if folder.is_dir()} == {"main", branch_of(first)}


def test_scores_on_other_rows_do_not_choose_the_best(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    official = trained(0.5, inputs={"hooks.rewardbench2": "allenai/reward-bench-2"})
    easy = trained(0.9, "hooks.rewardbench2=/home/ada/easy.jsonl", inputs={"hooks.rewardbench2": HASH})
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 2
    assert "were scored on 2 benchmarks" in capsys.readouterr().err
    assert hub.asked == []
    assert publish("sweep", "repo=me/rm", LICENSE, f"best={official}", monkeypatch=monkeypatch) == 0
    card = hub.branches["main"]["README.md"].decode()
    assert [row["Benchmark"] for row in rows_of(card)] == ["allenai/reward-bench-2", "allenai/reward-bench-2", "easy.jsonl"]
    assert "only those on the same benchmark compare" in card
    assert RESULTS in hub.branches["main"]
    assert RESULTS not in hub.branches[branch_of(easy)]


def test_scores_on_parts_of_the_rows_say_which(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trained(0.9, "hooks.budget=0.1", rows={"rewardbench2": [41, 1865]})
    trained(0.5, "seed=1")
    card = (written("sweep", monkeypatch=monkeypatch) / "README.md").read_text(encoding="utf-8")
    assert [row["Rows"] for row in rows_of(card)] == ["41 of 1865 rows", "41 of 1865 rows", "all rows"]
    assert "on the part in the column Rows of allenai/reward-bench-2" in card
    assert "some runs were scored on a part of the benchmark (column Rows)" in capsys.readouterr().out


def test_runs_with_the_first_benchmark_alone_are_ordered_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for overall in (0.5, 0.8):
        trained(overall, f"seed={int(10 * overall)}", metrics={"rewardbench1/overall": overall})
    card = (written("sweep", monkeypatch=monkeypatch) / "README.md").read_text(encoding="utf-8")
    assert [row["RewardBench 1 Score"] for row in rows_of(card)] == ["80.0", "80.0", "50.0"]
    assert "Factuality" not in card
    assert "RewardBench2," not in card  # nothing to cite


def test_policies_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trained(0.5, job="ppo")
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr()
    assert "is left out: it is a run of ppo" in said.out
    assert "Policies are not published: a checkpoint of theirs is a plain folder" in said.err


def test_a_run_that_was_killed_is_left_out_as_such(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trained(0.5)
    run = trained(0.9, "seed=1")
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps(record | {"status": "running"}))  # by a process whose lock is gone
    written("sweep", monkeypatch=monkeypatch)
    assert f"{run} is left out: it is not finished (killed)" in capsys.readouterr().out


def test_an_emptied_marker_publishes_the_files_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = step_folder(trained(0.5), 5)
    (weights / "model.safetensors").write_bytes(b"mended")
    (weights / MARKER).write_bytes(b"")
    assert (written("sweep", monkeypatch=monkeypatch) / "model.safetensors").read_bytes() == b"mended"
