"""Preference rows are read from files, folders, saved datasets and the hub, by split."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError

from tests.core.data.pairs import PLUM, PLUM_PAIR
from tests.rmtrain.pairs import named, prompts, read, write_jsonl, write_parquet


@pytest.mark.parametrize("path", ["/nowhere/pairs.jsonl", "pairs.jsonl", "/nowhere/pairs", "pairs", "a/b/c"])
def test_a_missing_file_is_named_with_its_key_and_a_remedy(path: str) -> None:
    with pytest.raises(
        ValueError, match=rf"data\.paths names {path}, which does not exist; give a JSONL or parquet file, a folder of parq"
    ):
        read(path)


@pytest.mark.parametrize("names", [["b.parquet", "a.parquet"], ["data/b.parquet", "data/a.parquet"]])
def test_a_folder_of_parquet_files_is_read_by_their_names(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write_parquet(tmp_path / "pairs" / name, [named(Path(name).stem), named(f"{Path(name).stem}2")])
    assert prompts(read(tmp_path / "pairs")) == ["a", "a2", "b", "b2"]


def test_the_rows_of_a_folder_are_numbered_through(tmp_path: Path) -> None:
    write_parquet(tmp_path / "pairs" / "a.parquet", [PLUM, PLUM])
    write_parquet(tmp_path / "pairs" / "b.parquet", [PLUM, PLUM | {"rejected": None}])
    with pytest.raises(ValueError, match="row 4: rejected missing or empty"):
        read(tmp_path / "pairs")


@pytest.mark.parametrize("names", [("train", "test"), ("train-00000-of-00002", "train_extra-00000-of-00001")])
def test_of_a_folder_whose_files_bear_splits_the_training_split_is_read(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write_parquet(tmp_path / "pairs" / f"{name}.parquet", [named(name)])
    assert prompts(read(tmp_path / "pairs")) == [names[0]]


def test_a_split_that_a_folder_lacks_is_refused_with_those_there_are_and_the_key_to_set(tmp_path: Path) -> None:
    for name in ("train_prefs-00000-of-00001", "test_prefs-00000-of-00001"):
        write_parquet(tmp_path / "hub" / f"{name}.parquet", [PLUM])
    with pytest.raises(
        ValueError, match=r"data\.paths names .*hub, which has no split 'train' but test_prefs, train_prefs; make it a sour"
    ):
        read(tmp_path / "hub")
    with pytest.raises(
        ValueError, match=r"which has no split 'dev' but test_prefs, train_prefs; set data\.sources\.uf\.split to one of th"
    ):
        read(tmp_path / "hub", split="dev", key="data.sources.uf")
    write_parquet(tmp_path / "whole" / "part.parquet", [PLUM])
    with pytest.raises(ValueError, match="which has no split 'test' but train; "):
        read(tmp_path / "whole", split="test")


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder without parquet files and without a saved dataset; name a file in it"):
        read(tmp_path)


def test_a_saved_dataset_is_read_by_its_split(tmp_path: Path) -> None:
    DatasetDict({name: Dataset.from_list([named(name)]) for name in ("train_prefs", "test_prefs")}).save_to_disk(tmp_path / "saved")
    assert prompts(read(tmp_path / "saved", split="test_prefs")) == ["test_prefs"]
    with pytest.raises(ValueError, match="which has no split 'train' but test_prefs, train_prefs; "):
        read(tmp_path / "saved")


def test_a_dataset_saved_without_its_splits_is_read_whole(tmp_path: Path) -> None:
    Dataset.from_list([named("a"), named("b")]).save_to_disk(tmp_path / "saved")
    assert prompts(read(tmp_path / "saved")) == ["a", "b"]
    with pytest.raises(ValueError, match="which has no split 'test' but train; "):
        read(tmp_path / "saved", split="test")


def test_a_torn_saved_dataset_is_named(tmp_path: Path) -> None:
    Dataset.from_list([PLUM]).save_to_disk(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(ValueError, match=r"saved, which is a saved dataset that cannot be read \(.*\); save it again"):
        read(tmp_path / "saved")


def test_a_file_has_no_splits(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [PLUM])
    with pytest.raises(ValueError, match=r"data\.sources\.a names .*pairs\.jsonl, a file, which has no split 'test'; leave the split out"):
        read(path, split="test", key="data.sources.a")


@pytest.mark.parametrize(
    ("path", "name", "revision"),
    [
        ("allenai/llama-3.1-tulu-3-8b-preference-mixture", "allenai/llama-3.1-tulu-3-8b-preference-mixture", None),
        ("Skywork/Skywork-Reward-Preference-80K-v0.2", "Skywork/Skywork-Reward-Preference-80K-v0.2", None),
        ("Anthropic/hh-rlhf@refs/convert/parquet", "Anthropic/hh-rlhf", "refs/convert/parquet"),
    ],
)
def test_a_hub_dataset_is_asked_for_by_name_split_and_revision(
    monkeypatch: pytest.MonkeyPatch, path: str, name: str, revision: str | None
) -> None:
    asked: list[Any] = []

    def hub(name: str, *, split: str, revision: str | None) -> Dataset:
        asked.append((name, split, revision))
        return Dataset.from_list([PLUM])

    monkeypatch.setattr("datasets.load_dataset", hub)
    monkeypatch.setattr("core.data.rows.require_hub", lambda what: None)
    assert read(path, split="train_prefs").pairs == [PLUM_PAIR]
    assert asked == [(name, "train_prefs", revision)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DatasetNotFoundError("there is no org/none"), r"which could not be loaded from the hub \(there is no org/none\); check the name"),
        (ConnectionError("timed out"), r"which could not be loaded from the hub \(timed out\)"),
        (
            ValueError("Unknown split \"train\". Should be one of ['train_sft', 'test_sft']."),
            "which has no split 'train' but test_sft, train_sft; ",
        ),
    ],
)
def test_what_the_hub_refuses_is_told_with_the_key(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def hub(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("datasets.load_dataset", hub)
    monkeypatch.setattr("core.data.rows.require_hub", lambda what: None)
    with pytest.raises(ValueError, match=rf"data\.paths names org/none, {message}"):
        read("org/none")


def test_the_splits_that_datasets_names_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` itself says which splits there are: its wording is read, so that it must not change unseen."""
    from datasets import Split, SplitDict, SplitInfo
    from datasets.arrow_reader import make_file_instructions

    splits = SplitDict({name: SplitInfo(name=name, num_examples=1) for name in ("train_prefs", "test_prefs")})

    def hub(*_: Any, **__: Any) -> None:
        make_file_instructions("x", list(splits.values()), str(Split.TRAIN), "arrow", str(tmp_path))

    monkeypatch.setattr("datasets.load_dataset", hub)
    monkeypatch.setattr("core.data.rows.require_hub", lambda what: None)
    with pytest.raises(ValueError, match="which has no split 'train' but test_prefs, train_prefs; "):
        read("org/name")
