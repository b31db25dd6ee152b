"""A model's folder whose files cannot be read is told by the name of the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core.config import ModelConfig
from core.models.load import load_policy
from core.models.locate import locate

Change = Callable[[Path], object]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def resized(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "config.json").write_text(""), r"config\.json"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json"),
        (lambda folder: cut(folder / "config.json"), r"config\.json"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), r"tokenizer_config\.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"model\.safetensors holds no weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"<!doctype html>" * 9), r"model\.safetensors holds no weights"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 4\n"),
            r"model\.safetensors is a pointer of Git LFS",
        ),
        (lambda folder: cut(folder / "model.safetensors"), r"model\.safetensors has \d+ bytes instead of \d+"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}'),
            r"lacks model-2\.safetensors, which model\.safetensors\.index\.json lists",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named_before_a_model_is_loaded(
    policy_folder: Path, tmp_path: Path, change: Change, said: str
) -> None:
    folder = shutil.copytree(policy_folder, tmp_path / "policy")
    locate(ModelConfig(path=str(folder)))
    change(folder)
    with pytest.raises(ValueError, match=said) as error:
        locate(ModelConfig(path=str(folder)), "reward.path")
    assert str(folder) in str(error.value)
    assert "reward.path" in str(error.value)


@pytest.mark.parametrize(
    "change", [lambda folder: (folder / "tokenizer.json").write_text(""), resized, lambda folder: (folder / "tokenizer.json").unlink()]
)
def test_what_transformers_cannot_load_is_told_with_the_folder(policy_folder: Path, tmp_path: Path, change: Change) -> None:
    folder = shutil.copytree(policy_folder, tmp_path / "policy")
    change(folder)
    with pytest.raises(ValueError, match=r"/policy\b"):
        load_policy(ModelConfig(path=str(folder)))
