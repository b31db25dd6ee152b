"""The same content has the same fingerprint, wherever it lies."""

import shutil
from pathlib import Path

import pytest

from core.data.fingerprint import fingerprint


def model_folder(path: Path, weights: bytes = b"w") -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_a_model_is_the_same_wherever_it_lies_and_whatever_its_trainer_left_beside_it(tmp_path: Path) -> None:
    one = model_folder(tmp_path / "one")
    two = model_folder(tmp_path / "deep" / "two")
    (two / "optimizer.pt").write_bytes(b"moments")
    (two / "training_args.bin").write_bytes(b"arguments")
    (two / "trainer_state.json").write_text("{}")
    (two / "COMPLETE").touch()
    assert fingerprint(one) == fingerprint(str(two))


@pytest.mark.parametrize("changed", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_with_another_config_tokenizer_or_weights_is_another_input(tmp_path: Path, changed: str) -> None:
    one, two = model_folder(tmp_path / "one"), model_folder(tmp_path / "two")
    (two / changed).write_text("[]")
    assert fingerprint(one) != fingerprint(two)


@pytest.mark.parametrize("offset", [0, 36 * 2**20, 72 * 2**20 - 1])
def test_large_weights_differ_where_their_start_middle_or_end_does(tmp_path: Path, offset: int) -> None:
    one, two = model_folder(tmp_path / "one"), model_folder(tmp_path / "two")
    for folder in (one, two):
        with (folder / "model.safetensors").open("wb") as file:
            file.truncate(72 * 2**20)  # sparse, so it costs no disk
    assert fingerprint(one) == fingerprint(two)
    with (two / "model.safetensors").open("rb+") as file:
        file.seek(offset)
        file.write(b"x")
    assert fingerprint(one) != fingerprint(two)


def test_a_data_folder_counts_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "pairs.jsonl").write_text("1\n")
    before = fingerprint(tmp_path / "data")
    assert before == fingerprint(shutil.copytree(tmp_path / "data", tmp_path / "copy"))
    (tmp_path / "data" / "train" / "pairs.jsonl").write_text("2\n")
    assert fingerprint(tmp_path / "data") != before


def test_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert fingerprint(tmp_path / "a.jsonl") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_hub_id_stays_as_it_is_and_a_missing_path_is_an_error(tmp_path: Path) -> None:
    # A revision may hold slashes: those of pull requests do.
    for name in ("allenai/reward-bench-2@main", "org/name@refs/pr/1", "pip:smollm2-135m"):
        assert fingerprint(name) == name
    for missing in (tmp_path / "missing", "./missing", "/missing/data", "runs/demo/missing"):
        with pytest.raises(FileNotFoundError, match="missing"):
            fingerprint(missing)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no file"):
        fingerprint(tmp_path / "empty")
