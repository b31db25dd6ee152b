"""The same content has the same fingerprint, wherever it lies."""

import hashlib
import os
import shutil
import time
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
    assert fingerprint(one, model=True) == fingerprint(str(two), model=True)


@pytest.mark.parametrize("changed", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_with_another_config_tokenizer_or_weights_is_another_input(tmp_path: Path, changed: str) -> None:
    one, two = model_folder(tmp_path / "one"), model_folder(tmp_path / "two")
    (two / changed).write_text("[]")
    assert fingerprint(one, model=True) != fingerprint(two, model=True)


@pytest.fixture
def hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hashes of large files."""
    monkeypatch.setattr("core.data.fingerprint.HASHES", tmp_path / "hashes")
    return tmp_path / "hashes"


def large_model(path: Path) -> Path:
    with (model_folder(path) / "model.safetensors").open("wb") as file:
        file.truncate(72 * 2**20)  # sparse, so it costs no disk
    return path


def aged(file: Path) -> None:
    """Has a file look as if it had been written an hour ago; its status was changed just now all the same."""
    hour = file.stat().st_mtime_ns - 3600 * 10**9
    os.utime(file, ns=(hour, hour))


@pytest.mark.parametrize("offset", [0, 20 * 2**20 + 7, 36 * 2**20, 72 * 2**20 - 1])
def test_large_weights_differ_wherever_they_differ(tmp_path: Path, hashes: Path, offset: int) -> None:
    one, two = large_model(tmp_path / "one"), large_model(tmp_path / "two")
    assert fingerprint(one, model=True) == fingerprint(two, model=True)
    with (two / "model.safetensors").open("rb+") as file:
        file.seek(offset)
        file.write(b"x")
    assert fingerprint(one, model=True) != fingerprint(two, model=True)


def test_a_large_file_is_hashed_once_until_it_changes(tmp_path: Path, hashes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = large_model(tmp_path / "one") / "model.safetensors"
    hashed: list[Path] = []
    plain = hashlib.file_digest
    monkeypatch.setattr("hashlib.file_digest", lambda opened, name: (hashed.append(Path(opened.name)), plain(opened, name))[1])
    later = time.time_ns() + 10**10
    monkeypatch.setattr("time.time_ns", lambda: later)
    assert [fingerprint(file) for _ in range(2)] == [fingerprint(file)] * 2
    assert hashed == [file]
    aged(file)
    fingerprint(file)
    assert hashed == [file, file]
    for kept in hashes.iterdir():
        kept.write_text("{torn")
    fingerprint(file)
    assert hashed == [file] * 3


def test_a_large_file_that_was_written_just_now_is_not_remembered(tmp_path: Path, hashes: Path) -> None:
    fingerprint(large_model(tmp_path / "one") / "model.safetensors")
    assert not hashes.exists()


def test_a_data_folder_with_a_config_counts_its_data(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "rows.parquet").write_bytes(b"1")
    before = fingerprint(tmp_path)
    (tmp_path / "rows.parquet").write_bytes(b"2")
    assert fingerprint(tmp_path) != before


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
