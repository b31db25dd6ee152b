"""Where models come from: what the files beside them say."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from core.config import ModelConfig
from core.data.fingerprint import fingerprint
from core.models.origin import Origin, family, lineage_of, origin_of, prompt_sources, run_id_of, trained_from

NONE: Mapping[str, Any] = MappingProxyType({})
CARD = """---
license: llama3.1
datasets:
- allenai/llama-3.1-tulu-3-8b-preference-mixture
- Skywork/Skywork-Reward-Preference-80K-v0.2
base_model:
- meta-llama/Llama-3.1-8B-Instruct
---
# A model card
"""


def folder(path: Path, *, classifier: bool = False, **files: str) -> Path:
    """The folder of a model with a configuration and these further files, `_` in their names for a dot."""
    path.mkdir(parents=True)
    kind = "LlamaForSequenceClassification" if classifier else "LlamaForCausalLM"
    (path / "config.json").write_text(json.dumps({"architectures": [kind]}))
    for name, text in files.items():
        (path / name.replace("_json", ".json").replace("_md", ".md")).write_text(text)
    return path


def origin(path: Path | str, lineage: str = "") -> Origin:
    return origin_of(ModelConfig(path=str(path), lineage=lineage))


def run_folder(path: Path, base: str, *, inputs: Mapping[str, str] = NONE, sources: Mapping[str, int] = NONE) -> Path:
    """The checkpoint of a run with this record."""
    checkpoint = folder(path / "checkpoints" / "step-000010", classifier=True)
    facts = {"lineage": {"base": base}, "data": {"sources": dict(sources)}}
    record = {"id": "1c27a5e0", "job": "rm", "status": "finished", "identity": {"inputs": dict(inputs)}, **facts}
    (path / "record.json").write_text(json.dumps(record))
    return checkpoint


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("allenai/Llama-3.1-Tulu-3-8B-SFT", "tulu-3-8b"),
        ("allenai/Llama-3.1-Tulu-3-8B-DPO@refs/pr/1", "tulu-3-8b"),
        ("allenai/Llama-3.1-Tulu-3-8B", "tulu-3-8b"),
        ("allenai/Llama-3.1-Tulu-3-8B-RL-RM-RB2", "tulu-3-8b"),
        ("allenai/Llama-3.1-Tulu-3-70B-SFT-RM-RB2", "tulu-3-70b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("allenai/Llama-3.1-8B-Instruct-RM-RB2", "llama-3.1-8b-instruct"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen-2.5-7b-instruct"),
        (" Coast ", "coast"),
    ],
)
def test_a_family_is_told_by_its_name_whatever_owner_case_revision_or_stage(name: str, expected: str) -> None:
    assert family(name) == expected


def test_what_is_configured_goes_before_what_lies_beside_the_model(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", lineage_json=json.dumps({"lineage": "Coast"}))
    assert origin(path) == Origin(base="coast", evidence="lineage.json")
    assert origin(path, "ridge") == Origin(base="ridge", evidence="model.lineage")
    assert (lineage_of(ModelConfig(path=str(path))), lineage_of(ModelConfig(path=str(path), lineage="ridge"))) == ("Coast", "ridge")


def test_a_run_s_record_tells_base_and_data(tmp_path: Path) -> None:
    pairs = tmp_path / "Atlas.jsonl"
    pairs.write_text("{}\n")
    inputs = {"model": "b" * 64, "data.0.atlas": fingerprint(pairs), "data.1.sky": "Skywork/Sky-Pairs", "pools": "c" * 64}
    checkpoint = run_folder(tmp_path / "rm-a", "coast", inputs=inputs, sources={"atlas": 3, "sky": 4})
    found = origin(checkpoint)
    assert (found.base, found.evidence) == ("coast", "the record of rm-a")
    assert found.sources == {"atlas", "sky", "sky-pairs", f"sha256:{fingerprint(pairs)}"}
    assert origin(tmp_path / "rm-a").base == "coast"
    assert (lineage_of(ModelConfig(path=str(checkpoint))), run_id_of(str(checkpoint))) == ("coast", "1c27a5e0")
    assert (lineage_of(ModelConfig(path="org/name")), run_id_of("org/name")) == ("org/name", "org/name")


@pytest.mark.parametrize("lineage", [None, {}, {"data": "atlas"}])
def test_a_record_that_does_not_tell_the_base_leaves_it_to_the_files_beside_the_weights(
    tmp_path: Path, lineage: dict[str, str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = run_folder(tmp_path / "rm-a", "coast", inputs={"data.0.atlas": "a" * 64})
    file = tmp_path / "rm-a" / "record.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "lineage": lineage}))
    (checkpoint / "README.md").write_text(CARD)
    found = origin(checkpoint)
    assert (found.base, found.evidence, "atlas" in found.sources) == ("llama-3.1-8b-instruct", "its model card", True)
    assert capsys.readouterr().err.startswith(f"{file} lacks lineage.base, so that")
    assert lineage_of(ModelConfig(path=str(checkpoint))) == str(checkpoint)
    told = trained_from(ModelConfig(path=str(checkpoint)))
    assert (told["run"], told["base"], told["data"]) == ("1c27a5e0", "llama-3.1-8b-instruct", "atlas")


def test_a_record_s_base_is_followed_to_what_lies_there(tmp_path: Path) -> None:
    policy = folder(tmp_path / "policy", lineage_json=json.dumps({"lineage": "coast"}))
    assert origin(run_folder(tmp_path / "rm-a", str(policy))).base == "coast"
    # And a folder of which nothing is known is still the same folder.
    unknown = folder(tmp_path / "unknown")
    reward = origin(run_folder(tmp_path / "rm-b", str(unknown)))
    assert (reward.base, reward.evidence) == (unknown.as_posix(), "")


def test_a_model_card_tells_a_reward_model_s_base_and_data(tmp_path: Path) -> None:
    found = origin(folder(tmp_path / "rm", classifier=True, README_md=CARD))
    assert found.families == ("llama-3.1-8b-instruct", "llama-3.1-8b")
    assert found.evidence == "its model card"
    assert found.sources == {"llama-3.1-tulu-3-8b-preference-mixture", "skywork-reward-preference-80k-v0.2"}
    one = "---\nbase_model: org/Some-SFT\ndatasets: org/Fruit-Pairs\n---\n"
    single = origin(folder(tmp_path / "single", classifier=True, README_md=one))
    assert (single.base, single.sources) == ("some", {"fruit-pairs"})


@pytest.mark.parametrize("card", ["no metadata", "---\n- a list\n---\n", "---\nbase_model: [torn\n---\n", "---\nlicense: mit\n---\n"])
def test_a_card_that_tells_nothing_leaves_the_model_unknown(card: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "rm", classifier=True, README_md=card)
    assert origin(path) == Origin(base=path.as_posix())


def test_links_of_cards_are_followed_over_folders_and_end_where_they_turn(tmp_path: Path) -> None:
    first = folder(tmp_path / "first", README_md="---\nbase_model: meta-llama/Llama-3.1-8B-Instruct\n---\n")
    second = folder(tmp_path / "second", README_md=f"---\nbase_model: {first}\n---\n")
    assert origin(second).families == (second.as_posix(), first.as_posix(), "llama-3.1-8b-instruct", "llama-3.1-8b")
    (first / "README.md").write_text(f"---\nbase_model: {second}\n---\n")
    assert origin(second).families == (second.as_posix(), first.as_posix())


def test_an_adapter_is_of_the_lineage_of_its_base(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", lineage_json=json.dumps({"lineage": "coast"}))
    config = json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)})
    adapter = folder(tmp_path / "lora", adapter_config_json=config, README_md=CARD)
    assert (origin(adapter).base, origin(adapter).evidence) == ("coast", "adapter_config.json")


def test_a_saved_name_counts_only_where_it_can_be_a_model(tmp_path: Path) -> None:
    path = folder(tmp_path / "rm", classifier=True)
    config = {"architectures": ["LlamaForSequenceClassification"]}
    for name, base in (("org/Base-SFT", "base"), ("/weka/someone/output", path.as_posix()), (str(path), path.as_posix())):
        (path / "config.json").write_text(json.dumps(config | {"_name_or_path": name}))
        assert origin(path).base == base


def test_prompts_are_known_by_name_and_content(tmp_path: Path) -> None:
    tulu, train = tmp_path / "Tulu.jsonl", tmp_path / "train.jsonl"
    tulu.write_text("1\n")
    train.write_text("2\n")
    assert prompt_sources([str(tulu)]) == {"tulu", f"sha256:{fingerprint(tulu)}"}
    assert prompt_sources([str(train)]) == {f"sha256:{fingerprint(train)}"}  # "train" is no name
    with pytest.raises(FileNotFoundError):
        prompt_sources([str(tmp_path / "missing.jsonl")])
