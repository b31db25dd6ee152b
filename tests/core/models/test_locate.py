"""A model's path leads to a folder or to a hub id with its revision, or is refused before anything is loaded."""

from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from core.config import ModelConfig
from core.models.locate import ModelLocation, find_file, locate, resolve


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub was needed for; the hub counts as there."""
    names: list[str] = []
    monkeypatch.setattr("core.models.locate.require_hub", names.append)
    return names


def test_an_empty_path_is_refused_with_the_key_and_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"model\.path is empty; give a local folder, a hub id or pip:smollm2-135m"):
        ModelConfig()


@pytest.mark.parametrize(
    "path", ["/nowhere/policy", "./policy", "runs/demo/policy", "policy", "/nowhere/org@main", "policy@v1", "a/b/c@v1"]
)
def test_a_path_that_does_not_exist_is_refused_with_the_key_and_a_remedy(path: str) -> None:
    with pytest.raises(ValueError, match=rf"reward\.path={path} does not exist; give the folder of a saved model, or a hub id"):
        locate(ModelConfig(path=path), "reward.path")


def test_a_folder_without_a_saved_model_is_refused_with_the_key_and_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.path=.* without config\.json or adapter_config\.json; name the folder of a saved model"):
        locate(ModelConfig(path=str(tmp_path)))


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
def test_a_folder_of_a_model_or_of_an_adapter_is_taken_although_its_name_holds_an_at(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "policy@v2"
    folder.mkdir()
    (folder / file).write_text("{}")
    config = ModelConfig(path=str(folder))
    assert locate(config) == ModelLocation(path=str(folder))
    assert resolve(config) == str(folder)


def test_a_relative_folder_that_looks_like_a_hub_id_with_a_revision_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name@v2").mkdir(parents=True)
    (tmp_path / "org" / "name@v2" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert locate(ModelConfig(path="org/name@v2")) == ModelLocation(path="org/name@v2")


def test_a_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model\.path=.* is a folder, which has no revision 'v2'; leave the revision out"):
        locate(ModelConfig(path=str(tmp_path), revision="v2"))


def test_an_unknown_model_of_a_package_is_refused_with_the_known_one() -> None:
    with pytest.raises(ValueError, match=r"model\.path=pip:gpt5 is unknown; .* pip:smollm2-135m"):
        locate(ModelConfig(path="pip:gpt5"))


def test_a_name_with_one_slash_is_a_hub_id(asked: list[str]) -> None:
    assert resolve(ModelConfig(path="allenai/olmo-2")) == "allenai/olmo-2"
    assert locate(ModelConfig(path="allenai/olmo-2")) == ModelLocation(path="allenai/olmo-2", revision=None)
    assert asked == ["model.path=allenai/olmo-2"] * 2


@pytest.mark.parametrize(
    ("path", "beside", "revision"),
    [
        ("org/name@v1.0", None, "v1.0"),
        ("org/name@v1.0", "v1.0", "v1.0"),
        ("org/name@refs/pr/1", None, "refs/pr/1"),
        ("org/name", "v1.0", "v1.0"),
    ],
)
def test_a_hub_ids_revision_stands_behind_it_or_beside_it(asked: list[str], path: str, beside: str | None, revision: str) -> None:
    config = ModelConfig(path=path, revision=beside)
    assert locate(config) == ModelLocation(path="org/name", revision=revision)
    assert resolve(config) == f"org/name@{revision}"


def test_two_different_revisions_are_refused(asked: list[str]) -> None:
    with pytest.raises(ValueError, match=r"model\.path=org/name@v1 names another revision than the revision setting, v2; give only one"):
        locate(ModelConfig(path="org/name@v1", revision="v2"))


def test_an_at_without_a_revision_is_refused(asked: list[str]) -> None:
    with pytest.raises(ValueError, match=r"model\.path=org/name@ names no revision after the @; give one, as in org/name@main"):
        locate(ModelConfig(path="org/name@"))


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
def test_a_model_or_adapter_in_the_cache_of_the_hub_needs_no_hub(asked: list[str], monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    cached = {("org/name", file, "v1")}

    def look_up(name: str, wanted: str, revision: str | None) -> str | None:
        return "/cache/file" if (name, wanted, revision) in cached else None

    monkeypatch.setattr("core.models.locate.try_to_load_from_cache", look_up)
    locate(ModelConfig(path="org/name@v1"))
    assert asked == []
    locate(ModelConfig(path="org/name@v2"))
    assert asked == ["model.path=org/name@v2"]


def test_a_file_is_found_in_a_folder_or_on_the_hub_at_the_revision_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, file: str, revision: str | None) -> str:
        if file != "config.json":
            raise LocalEntryNotFoundError(f"{name} has no {file}")
        return f"/cache/{name}/{revision}/{file}"

    monkeypatch.setattr("core.models.locate.hf_hub_download", download)
    (tmp_path / "config.json").write_text("{}")
    assert find_file(ModelLocation(path=str(tmp_path)), "config.json") == tmp_path / "config.json"
    assert find_file(ModelLocation(path=str(tmp_path)), "adapter_config.json") is None
    assert find_file(ModelLocation(path="org/name", revision="v1"), "config.json") == Path("/cache/org/name/v1/config.json")
    assert find_file(ModelLocation(path="org/name", revision="v1"), "adapter_config.json") is None


def test_a_model_that_is_not_in_the_cache_is_refused_where_nothing_may_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.data.hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"reward\.path=nobody-has/this is not in the cache of the hub, and HF_HUB_OFFLINE forbids"):
        locate(ModelConfig(path="nobody-has/this"), "reward.path")
