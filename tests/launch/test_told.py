"""What a report tells of the texts that its runs have read: pools of several models end in self-preference, shared prompts in a table."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM, PreTrainedTokenizerFast

from core.disk import write_json
from core.progress import NoProgress
from core.runs.record import open_run, read_record
from evalhooks.report.summary import read_summary
from launch import bon, report
from launch.compose import composed
from launch.jobs.told import told_by
from launch.schema import BoNJob, ReportJob, RMJob

MODELS = ("allenai/Llama-3.1-Tulu-3-8B-SFT", "Qwen/Qwen2.5-7B-Instruct", "gpt-4o")


@pytest.fixture
def rewards(tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Reward models of two families that differ in their heads."""
    policy.save_pretrained(tmp_path / "policy")
    places: list[str] = []
    for number, lineage in enumerate(("tulu-3-8b", "tulu-3-8b", "qwen-2.5-7b-instruct", "qwen-2.5-7b-instruct")):
        torch.manual_seed(number)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "policy", num_labels=1)
        place = tmp_path / f"rm-{number}"
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        write_json(place / "lineage.json", {"lineage": lineage})
        places.append(str(place))
    return places


def pool(file: Path, *, models: tuple[str, ...] = MODELS) -> Path:
    words = ("plum", "lamp", "river", "stone", "cloud", "paper", "seven", "green", "quiet", "tall", "under", "north", "bread", "glass")
    rows = [
        {"prompt_id": str(k), "prompt": f"{words[k]} {words[k + 1]}", "completion": words[(5 * k + m) % len(words)], "model": model}
        for k in range(6)
        for m, model in enumerate(models)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def chosen(tmp_path: Path, given: Path, rewards: list[str]) -> dict[str, Any]:
    overrides = [f"runs_dir={tmp_path}/runs", "study=s", f"pools={given}", f"rewards=[{','.join(rewards)}]", "hooks.max_length=64"]
    return bon.run(composed(BoNJob, overrides), NoProgress())


def reported(tmp_path: Path, *terms: str) -> dict[str, Any]:
    job = composed(ReportJob, [f"runs_dir={tmp_path}/runs", f"runs=[{','.join(terms)}]", f"out={tmp_path}/report"])
    report._command(job)  # pyright: ignore[reportPrivateUsage]
    return read_summary(tmp_path / "report")


def test_a_pool_of_several_models_ends_in_self_preference(tmp_path: Path, rewards: list[str]) -> None:
    # Two runs, one of them with a reward model that both have: it counts once.
    given = pool(tmp_path / "pool.jsonl")
    runs = [chosen(tmp_path, given, rewards[:3]), chosen(tmp_path, given, rewards[2:])]
    assert runs[0]["lineage"]["reward_models"]["rm-0"] == {"run": rewards[0], "path": rewards[0], "base": "tulu-3-8b", "data": ""}
    summary = reported(tmp_path, *(str(run["dir"]) for run in runs))
    found = summary["findings"]["self_preference"]
    assert (found["models"], found["bases"], found["num_prompts"]) == ([*MODELS], ["tulu-3-8b", "qwen-2.5-7b-instruct"], 6)
    assert {cell["num_rms"] for cell in found["cells"]} == {2}
    # By hand from the scores of one reward model: of three completions to each prompt the mean of 1, 1/2 and 1/3.
    for base in found["bases"]:
        cells = [cell["inverse_rank"] for cell in found["cells"] if cell["base"] == base]
        assert sum(cells) == pytest.approx(1 + 1 / 2 + 1 / 3)
    assert [entry["base"] for entry in found["preferences"]] == ["tulu-3-8b", "qwen-2.5-7b-instruct"]
    assert (tmp_path / "report" / "self_preference.png").stat().st_size > 0
    assert "prefer their base's own completions?" in (tmp_path / "report" / "report.md").read_text()
    assert {model["base"] for model in summary["reward_models"]} == {"tulu-3-8b", "qwen-2.5-7b-instruct"}


def test_pools_that_have_changed_or_gone_are_told_and_one_models_pool_is_no_self_preference(tmp_path: Path, rewards: list[str]) -> None:
    given = pool(tmp_path / "pool.jsonl")
    run = chosen(tmp_path, given, rewards[:2])
    pool(given, models=(*MODELS[:2], "another"))
    summary = reported(tmp_path, str(run["dir"]))
    assert not summary.get("findings")
    assert f"Self-preference lacks rm-0 on {given}: its scores are gone, or the pools have changed." in summary["notes"]
    given.unlink()
    assert "could not be read" in reported(tmp_path, str(run["dir"]))["notes"][0]
    alone = chosen(tmp_path, pool(tmp_path / "alone.jsonl", models=MODELS[:1]), rewards[:1])
    assert not reported(tmp_path, str(alone["dir"])).get("findings")


def test_pools_of_a_reward_models_hooks_that_cannot_be_read_are_told_and_cost_no_report(tmp_path: Path) -> None:
    pools = tmp_path / "pools"
    pools.mkdir()
    write_json(pools / "pool.json", {"format": 2})  # which names no tasks
    (pools / "COMPLETE").touch()
    saved = composed(RMJob, ["model=custom", "model.path=m", "data=custom", f"data.paths=[{tmp_path}/pairs.jsonl]", f"hooks.pools={pools}"])
    run, _ = open_run(runs_dir=tmp_path, study="s", job="rm", name="a", identity={}, config_yaml=saved.yaml)
    found, [note] = told_by([{"dir": str(run.dir), **read_record(run.dir)}])
    assert found == {}
    assert note.startswith(f"The pools {pools} could not be read, so nothing is told of their texts: ")
