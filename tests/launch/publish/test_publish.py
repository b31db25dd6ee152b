"""`rewardloop publish`: a sweep becomes a repository with a revision per run, `main` the best, and a card that says what records say."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub import parse_eval_result_entries as parsed

from core.runs.checkpoints import step_folder
from launch.compose import composed
from launch.identity import unhashed_keys
from launch.overrides.differences import differences
from launch.publish.facts import command_of, without_local_paths
from launch.publish.folders import FACTS, RESULTS
from launch.schema import RMJob
from tests.launch.publish.hub import Hub
from tests.launch.publish.made import DOMAINS, LICENSE, OWN, publish, rows_of, trained

pytestmark = [
    pytest.mark.usefixtures("alone"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # of the hub's client, without its own servers
]


def test_three_runs_are_three_revisions_and_the_best_is_main(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [trained(overall, f"optim.lr={lr}") for overall, lr in ((0.5, "1e-6"), (0.7, "3e-6"), (0.6, "1e-5"))]
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    names = [run.name.removeprefix("rm-") for run in runs]
    assert set(hub.branches) == {"main", *names}
    for name, weights in zip(names, (b"0.500000000", b"0.700000000", b"0.600000000"), strict=True):
        assert hub.branches[name]["model.safetensors"] == weights
    assert hub.branches["main"]["model.safetensors"] == b"0.700000000"
    assert set(hub.branches["main"]) == {".gitattributes", "model.safetensors", "config.json", "README.md", FACTS, RESULTS}


def test_the_table_of_the_card_is_what_the_records_say(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {
        run.name.removeprefix("rm-"): run
        for run in (trained(0.512, "optim.lr=1e-6", "epochs=2"), trained(0.748, "seed=7", "data.flip=0.25"))
    }
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    card = hub.branches["main"]["README.md"].decode()
    main, *others = rows_of(card)
    assert [row["Revision"] for row in others] == [*runs][::-1]  # the best first
    for row in others:
        best = json.loads((runs[row["Revision"]] / "record.json").read_text())["best"]
        shown = {"RewardBench 2 Score": "overall", "Factuality": "factuality", "Precise IF": "precise_if", "Math": "math"}
        shown |= {"Safety": "safety", "Focus": "focus", "Ties": "ties"}
        assert {title: row[title] for title in shown} == {title: f"{100 * best[f'rewardbench2/{key}']:.1f}" for title, key in shown.items()}
    assert [[row[key] for key in ("Training Data", "Learning Rate", "Num Epochs", "seed", "data.flip")] for row in others] == [
        ["mine", "3e-6", "1", "7", "0.25"], ["mine", "1e-6", "2", "0", "0.0"],
    ]  # fmt: skip
    assert {**others[0], "Revision": "main"} == main
    assert all(hub.branches[name]["README.md"].decode() == card for name in runs)


def test_the_card_has_license_base_model_datasets_seed_and_command_and_nothing_unfilled(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(0.5, "seed=3")
    assert publish("sweep", "repo=me/rm", LICENSE, "datasets=org/mine", "language=en,de", monkeypatch=monkeypatch) == 0
    card = ModelCard(hub.branches["main"]["README.md"].decode(), ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert (data["license"], data["base_model"], data["language"]) == ("apache-2.0", "org/base", ["en", "de"])
    assert data["datasets"] == ["org/pairs", "org/mine"]
    assert (data["pipeline_tag"], data["library_name"]) == ("text-classification", "transformers")
    assert "- Seed: 3\n" in card.text
    assert "rewardloop rm model=custom data=custom" in card.text
    assert not re.search(r"\{\{|TODO|\bNone\b|\bnan\b|/home/", str(card))


def test_the_results_are_entries_of_the_hub_s_format(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(0.7125, "hooks.limit=0.5")
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    entries = parsed(yaml.safe_load(hub.branches[run.name.removeprefix("rm-")][RESULTS]))
    assert {entry.task_id for entry in entries} == {"overall", *DOMAINS}
    assert {(entry.dataset_id, entry.value) for entry in entries} == {("allenai/reward-bench-2", 71.25)}
    assert "50% of the rows" in str(entries[0].notes)


def test_published_once_more_nothing_is_sent_and_a_new_run_is_added(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(0.5)
    publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch)
    hub.asked.clear()
    publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch)
    assert not [asked for asked in hub.asked if asked.startswith("PUT") or "/commit/" in asked]
    assert capsys.readouterr().out.count("there already") == 2
    better = trained(0.9, "seed=1")
    publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch)
    assert hub.branches["main"]["model.safetensors"] == b"0.900000000"
    assert set(hub.branches) >= {better.name.removeprefix("rm-")}
    assert len([asked for asked in hub.asked if asked.startswith("PUT")]) == 1  # the weights of `main` are known by then


def test_an_upload_that_was_cut_off_goes_on(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first, last = trained(0.9), trained(0.5, "seed=1")
    hub.faults[f"/commit/{first.name.removeprefix('rm-')}"] = 500
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the same command goes on from there" in said
    assert "model.safetensors" not in hub.branches["main"]  # which comes last
    hub.faults.clear()
    hub.asked.clear()
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    assert f"1/3 {last.name.removeprefix('rm-')}: there already" in capsys.readouterr().out
    assert hub.branches["main"]["model.safetensors"] == b"0.900000000"


def test_a_dry_run_writes_the_folder_and_asks_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trained(0.5)
    assert publish("sweep", "repo=me/rm", LICENSE, "dry_run=true", monkeypatch=monkeypatch) == 0
    assert hub.asked == []
    folder = Path("runs/publish-me-rm/main")
    assert (metadata_load(folder / "README.md") or {})["license"] == "apache-2.0"
    assert json.loads((folder / "config.json").read_text())["_name_or_path"] == "org/base"
    assert (folder / "model.safetensors").read_bytes() == b"0.500000000"
    assert "nothing was uploaded" in capsys.readouterr().out


def test_domains_that_were_not_measured_are_named_and_runs_of_other_kinds_left_out(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = {"rewardbench2/math": 0.4, "rewardbench2/safety": 0.6, "held_out/accuracy": 0.8}
    trained(0.5, "hooks.rewardbench2=rows.jsonl", metrics=some)
    trained(0.5, "seed=1", metrics={"held_out/accuracy": 0.7})
    trained(0.5, "seed=2", finished=False)
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    rows = rows_of(hub.branches["main"]["README.md"].decode())
    assert [(row["RewardBench 2 Score (mean of 2: Math, Safety)"], row["Held-out Accuracy"]) for row in rows] == [
        ("50.0", "80.0"), ("50.0", "80.0"), ("not measured", "70.0"),
    ]  # fmt: skip
    assert RESULTS not in hub.branches["main"]
    said = capsys.readouterr().out
    assert "is left out: it is not finished (running)" in said
    assert "benchmark=org/name" in said


@pytest.mark.parametrize(
    ("overrides", "arguments", "said"),
    [
        ([], ["repo=rm", LICENSE], "repo=rm is no repository"),
        ([], ["repo=me/rm"], "no license is known"),
        ([], ["repo=me/rm", "license=other"], "license_name=NAME and license_link=URL"),
        (["model.path=elsewhere/model/x"], ["repo=me/rm", LICENSE], "base_model=org/name"),
        ([], ["repo=me/rm", LICENSE, "dry_run=maybe"], "neither true nor false"),
        ([], ["repo=me/rm", LICENSE, "datasets=a b"], "datasets=a b is no dataset"),
    ],
)
def test_what_would_leave_the_card_incomplete_is_refused_before_anything_is_sent(
    overrides: list[str], arguments: list[str], said: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(0.5, *overrides)
    assert publish("sweep", *arguments, monkeypatch=monkeypatch) == 2
    assert said in capsys.readouterr().err
    assert not [asked for asked in hub.asked if asked.startswith(("POST", "PUT"))]


def test_weights_that_are_gone_or_damaged_are_refused(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = step_folder(trained(0.5), 5) / "model.safetensors"
    weights.write_bytes(b"0.600000000")
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 2
    assert "model.safetensors has changed" in capsys.readouterr().err
    (weights.parent / "COMPLETE").unlink()
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 2
    assert "were not kept" in capsys.readouterr().err
    assert hub.asked == []


@pytest.mark.parametrize(
    "overrides",
    [
        [*OWN, "optim.lr=1e-5", "epochs=2", "data.flip=0.25", "hooks.limit=0.5", "data.paths=[org/pairs,pairs.jsonl]"],
        ["model=tulu_8b_sft", "data=both", "data.sources.tulu.weight=0.5", "lora.rank=4", "seed=2"],
    ],
    ids=["paths", "sources"],
)
def test_the_command_of_the_card_composes_to_the_settings_of_the_run(overrides: list[str]) -> None:
    job = composed(RMJob, overrides).job
    again = composed(RMJob, shlex.split(command_of(job).replace("\\\n", " "))[2:]).job
    differing = {key for key in differences([job, again]).keys if key not in unhashed_keys(job)}
    assert differing == set()


def test_paths_of_this_machine_do_not_get_into_a_card() -> None:
    found = [
        without_local_paths(text)
        for text in ("/home/ada/x.jsonl", "path:/home/ada/y", "[../a/b.jsonl,~/c.parquet,org/d@main]", "0.5", "https://h/x")
    ]
    assert found == ["x.jsonl", "path:y", "[b.jsonl,c.parquet,org/d@main]", "0.5", "https://h/x"]
