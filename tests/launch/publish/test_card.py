"""The card as a reader of the hub sees it: metadata, use, bases, terms, what is cited."""

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub import parse_eval_result_entries as parsed
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import LlamaForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast
from yaml import safe_load

from core.disk import mark_complete
from core.runs.checkpoints import step_folder
from launch.publish.folders import RESULTS
from launch.publish.licenses import likely_license
from tests.fakes import tiny_llama
from tests.launch.publish.hub import Hub
from tests.launch.publish.made import LICENSE, branch_of, publish, rows_of, trained

pytestmark = [
    pytest.mark.usefixtures("alone"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # of the hub's client, without its own servers
]
OUT = Path("runs/publish-me-rm")
HASH, OTHER = "ab" * 32, "cd" * 32


def card_of(branch: str = "main") -> str:
    """The card on a branch, in the folder of a dry run."""
    return (OUT / branch / "README.md").read_text(encoding="utf-8")


def dry(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """A dry run of the command."""
    return publish("sweep", "repo=me/rm", *arguments, "dry_run=true", monkeypatch=monkeypatch)


def local(path: Path, card: str) -> Path:
    """A folder with a base model that has a card."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "README.md").write_text(f"---\n{card}\n---\n")
    return path


def fill(weights: Path, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Makes a checkpoint hold a model and its tokenizer."""
    for file in weights.iterdir():
        if file.is_file():
            file.unlink()
    model.save_pretrained(str(weights))
    tokenizer.save_pretrained(weights)
    mark_complete(weights)


def reward(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerFast) -> float:
    """The reward of the card's dialogue."""
    dialogue = [{"role": "user", "content": "What is 2 plus 3?"}, {"role": "assistant", "content": "It is 5."}]
    inputs = cast("dict[str, torch.Tensor]", tokenizer.apply_chat_template(dialogue, return_tensors="pt", return_dict=True))
    with torch.no_grad():
        return model(input_ids=inputs["input_ids"]).logits.item()


def reward_of_the_code() -> float:
    """The reward that the card's code computes, from the folder in place of the hub."""
    [code] = re.findall(r"```python\n(.*?)```", card_of(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(code.replace('"me/rm"', repr(str(OUT / "main"))), found)
    return found["reward"]


def test_the_code_of_the_card_gives_the_reward(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LlamaForSequenceClassification(tiny_llama(tokenizer, num_labels=1)).eval()
    fill(step_folder(trained(0.5), 5), model, tokenizer)
    assert dry(LICENSE, monkeypatch=monkeypatch) == 0
    assert reward_of_the_code() == pytest.approx(reward(model, tokenizer), abs=1e-6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # of transformers', which peft uses
def test_the_code_of_a_card_for_adapters_gives_the_reward(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    base, weights = Path("base"), step_folder(trained(0.5, "lora.rank=2"), 5)
    LlamaForSequenceClassification(tiny_llama(tokenizer, num_labels=1)).save_pretrained(base)
    whole = LlamaForSequenceClassification.from_pretrained(base)
    adapter = get_peft_model(whole, LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    fill(weights, adapter, tokenizer)
    assert dry(LICENSE, monkeypatch=monkeypatch) == 0
    config = OUT / "main" / "adapter_config.json"
    text = config.read_text(encoding="utf-8")
    assert json.loads(text)["base_model_name_or_path"] == "org/base"
    config.write_text(text.replace("org/base", str(base)), encoding="utf-8")  # which no hub has
    assert reward_of_the_code() == pytest.approx(reward(adapter, tokenizer), abs=1e-5)


def test_an_encoder_without_a_template_reads_question_and_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    trained(0.5)
    assert dry(LICENSE, monkeypatch=monkeypatch) == 0
    assert 'inputs = tokenizer("What is 2 plus 3?", "It is 5.", return_tensors="pt")' in card_of()


def test_adapters_and_whole_models_of_one_sweep_each_say_how_they_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, adapter = trained(0.9), trained(0.5, "lora.rank=4", "model.quantize=nf4")
    assert dry(LICENSE, monkeypatch=monkeypatch) == 0
    heads = {name: metadata_load(OUT / name / "README.md") or {} for name in ("main", branch_of(whole), branch_of(adapter))}
    assert [(head["library_name"], head["base_model_relation"]) for head in heads.values()] == [
        ("transformers", "finetune"), ("transformers", "finetune"), ("peft", "adapter"),
    ]  # fmt: skip
    assert f"These revisions are loaded by `AutoPeftModelForSequenceClassification` instead: {branch_of(adapter)}." in card_of()
    assert '"main"\n' in card_of()  # no other whole model to name as an example
    assert f"The base of {branch_of(adapter)} was quantized to nf4" in card_of()
    assert {row["lora.rank"] for row in rows_of(card_of())} == {"0", "4"}


def test_every_folder_that_runs_were_trained_from_needs_a_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    coast = trained(0.5, "model.path=/home/ada/coast", inputs={"model.path": HASH})
    ridge = trained(0.9, "model.path=/home/ada/ridge", inputs={"model.path": OTHER})
    assert dry(LICENSE, "base_model=org/coast", monkeypatch=monkeypatch) == 2
    assert "base_model=coast:org/coast,ridge:org/ridge" in capsys.readouterr().err
    assert dry(LICENSE, "base_model=coast:org/c,other:org/o", monkeypatch=monkeypatch) == 2
    assert "base_model=other:org/o names no folder" in capsys.readouterr().err
    assert dry(LICENSE, "base_model=coast:org/c,ridge:org/r", monkeypatch=monkeypatch) == 0
    assert {row["Revision"]: row["Base Model"] for row in rows_of(card_of())} == {
        "main": "org/r", branch_of(ridge): "org/r", branch_of(coast): "org/c",
    }  # fmt: skip
    assert set((metadata_load(OUT / "main" / "README.md") or {})["base_model"]) == {"org/r", "org/c"}


def test_an_id_for_the_base_is_refused_where_all_bases_are_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(0.5)
    assert dry(LICENSE, "base_model=org/other", monkeypatch=monkeypatch) == 2
    assert "base_model=org/other is for runs that were trained from a folder" in capsys.readouterr().err


def test_a_base_in_the_hub_s_cache_has_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = "/home/ada/.cache/huggingface/hub/models--org--my-base/snapshots/0123abcd"
    trained(0.5, f"model.path={snapshot}", inputs={"model.path": HASH})
    assert dry(LICENSE, monkeypatch=monkeypatch) == 0
    assert (metadata_load(OUT / "main" / "README.md") or {})["base_model"] == "org/my-base"
    assert "model.path=org/my-base" in card_of()


def test_a_folder_s_card_names_base_and_license_and_its_text_goes_along(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = local(Path("bases/mine"), "base_model:\n- org/parent\nlicense: gemma")
    (folder / "LICENSE").write_text("the terms")
    trained(0.5, f"model.path={folder}", inputs={"model.path": HASH})
    assert dry(monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert f"base model org/parent: so says the model card in {folder}" in said
    assert "asks for a copy" not in said
    assert (OUT / "main" / "LICENSE").read_text() == "the terms"
    assert "Its text is among the files: LICENSE." in card_of()
    assert "[Gemma Terms of Use](https://ai.google.dev/gemma/terms)" in card_of()


def test_bases_with_different_licenses_need_a_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, license in (("a", "mit"), ("b", "apache-2.0")):
        folder = local(Path(name), f"base_model: org/{name}\nlicense: {license}")
        trained(0.5, f"model.path={folder}", inputs={"model.path": name * 64})
    assert dry(monkeypatch=monkeypatch) == 2
    assert "state different licenses (apache-2.0, mit)" in capsys.readouterr().err


def test_a_card_by_hand_that_is_malformed_does_not_end_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(0.5, f"model.path={local(Path('mine'), 'license: [')}", inputs={"model.path": HASH})
    assert dry(monkeypatch=monkeypatch) == 2
    assert "base_model=org/name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("license", "repo", "said", "shown"),
    [
        ("llama3.1", "me/rm", ["the name of the model begins with 'Llama'", "asks for a copy of it"], "**Built with Llama.**"),
        ("llama3.1", "me/Llama-3.1-8B-RM", ["asks for a copy of it"], "**Built with Llama.**"),
        ("apache-2.0", "me/rm", ["meta-llama/Llama-3.1-8B comes under llama3.1"], "License: apache-2.0."),
    ],
)
def test_what_a_license_asks_is_said_and_done(
    license: str, repo: str, said: list[str], shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(0.5, "model.path=meta-llama/Llama-3.1-8B")
    assert publish("sweep", f"repo={repo}", f"license={license}", "out=out", "dry_run=true", monkeypatch=monkeypatch) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "asks" in line or "comes under" in line]
    assert len(lines) == len(said)
    assert all(text in line for text, line in zip(said, lines, strict=True))
    assert shown in Path("out/main/README.md").read_text(encoding="utf-8")


def test_the_license_of_a_base_is_told_by_its_name() -> None:
    names = ("meta-llama/Llama-3.1-8B-Instruct", "allenai/Llama-3.1-Tulu-3-8B-SFT", "meta-llama/Meta-Llama-3-8B", "google/gemma-2-2b")
    assert [likely_license(name) for name in names] == ["llama3.1", "llama3.1", "llama3", "gemma"]
    others = ("Qwen/Qwen2.5-7B", "HuggingFaceTB/SmolLM2-135M", "openlm/open_llama_3b", "google/gemma-4-12b")
    assert not any(map(likely_license, others))


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("repo=me/rm@main", "repo=me/rm@main is no repository"),
        ("repo=me/a--b", "repo=me/a--b is no repository"),
        ("language=english", "language=english holds no codes of languages"),
        ("language=", "language= holds no codes"),
        ("license=Llama-3.1", "license=Llama-3.1 is no name of the hub's"),
        ("datasets=org/a@main", "datasets=org/a@main is no dataset"),
        ("benchmark=org/rows", "benchmark=org/rows is for scores on rows from a file"),
        ("leave=perhaps", "leave=perhaps is neither true nor false"),
    ],
)
def test_what_the_hub_would_refuse_is_refused_here(
    argument: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(0.5)
    assert dry(LICENSE, argument, monkeypatch=monkeypatch) == 2
    assert said in capsys.readouterr().err


def test_a_card_says_what_main_is_among_several_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained(0.5)
    assert dry(LICENSE, monkeypatch=monkeypatch) == 0
    assert "rm is a reward model, trained on preference pairs" in card_of()
    assert f"The revision `{branch_of(first)}` is the same as `main`" in card_of()
    trained(0.9, "seed=1")
    assert dry(LICENSE, monkeypatch=monkeypatch) == 0
    assert "rm is one of 2 reward models published together" in card_of()
    assert "Its `main` revision is the best by its RewardBench 2 score" in card_of()
    assert dry(LICENSE, f"best={first}", monkeypatch=monkeypatch) == 0
    assert "Its `main` revision was chosen by the author, and not by its score" in card_of()


def test_runs_that_share_the_name_of_their_mix_are_told_apart_by_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, overall in ((1, 0.9), (2, 0.5)):
        trained(overall, f"data.paths=[part-{number}.jsonl]", inputs={"data.0.part": str(number) * 64})
    assert dry(LICENSE, monkeypatch=monkeypatch) == 0
    assert [row["data.paths"] for row in rows_of(card_of())] == ["[part-1.jsonl]", "[part-1.jsonl]", "[part-2.jsonl]"]


def test_a_mix_without_a_name_is_called_by_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    trained(0.5, "data.name=custom", "data.paths=[org/pairs]")
    assert dry(LICENSE, monkeypatch=monkeypatch) == 0
    assert [row["Training Data"] for row in rows_of(card_of())] == ["org/pairs", "org/pairs"]


def test_the_card_cites_what_scored_and_trained_the_models_and_says_who_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    trained(0.5)
    assert dry(LICENSE, monkeypatch=monkeypatch) == 0
    card = ModelCard(card_of(), ignore_metadata_errors=False)
    assert "title={RewardBench 2: Advancing Reward Model Evaluation}" in card.text
    assert "@software{rewardloop," in card.text
    assert "- Developed by: me\n" in card.text
    assert "- Finetuned from: org/base\n" in card.text


def test_results_name_the_commit_of_the_benchmark_and_the_day(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    rows = f"allenai/reward-bench-2@{commit}"
    run = trained(0.7125, f"hooks.rewardbench2={rows}", inputs={"hooks.rewardbench2": rows})
    assert publish("sweep", "repo=me/rm", LICENSE, monkeypatch=monkeypatch) == 0
    entries = parsed(safe_load(hub.branches[branch_of(run)][RESULTS]))
    assert {(entry.dataset_id, entry.dataset_revision, entry.value) for entry in entries} == {("allenai/reward-bench-2", commit, 71.25)}
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d", str(entry.date)) for entry in entries)
    assert not any(entry.verify_token or entry.source_url for entry in entries)
