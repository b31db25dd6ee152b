"""Names in study files that mean nothing are answered with file, key and what there is; the page has what there is."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from launch.compose import ConfigError, composed
from launch.schema import StudyJob
from tests.launch.tiny_study import HEAD, chosen

PAGE = Path(__file__).parents[3] / "docs" / "studies.md"


def refused(overrides: list[str]) -> str:
    with pytest.raises(ConfigError) as error:
        composed(StudyJob, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_variable_that_there_is_not_is_told_with_its_file_and_key(tmp_path: Path) -> None:
    lines = 'reward_models: ["model=coast data=union", "data=custom data.paths=[${quoted:${preferencess}}]"]\n'
    said = refused(chosen(tmp_path, HEAD + lines, "mine"))
    assert said.startswith(f"reward_models[1] in {tmp_path}/mine/experiment/mine.yaml refers to ${{preferencess}}, which is no key")
    assert "did you mean preferences" in said
    assert "There are study, runs_dir, seed, " in said


def test_a_variable_that_there_is_not_is_told_with_its_override() -> None:
    said = refused(["experiment=demo", "common=['tracker=${qqq}']"])
    assert said.startswith(
        "common[0] in the override common=['tracker=${qqq}'] refers to ${qqq}, which is no key of rewardloop study; there are study,"
    )


def test_a_function_that_there_is_not_is_told_with_those_there_are(tmp_path: Path) -> None:
    said = refused(chosen(tmp_path, HEAD + 'reward_models: ["data.name=${quote:${study}}"]\n'))
    assert said.startswith(
        f"reward_models[0] in {tmp_path}/mine/experiment/tiny.yaml refers to ${{quote:...}}, and there is only ${{quoted:...}}"
    )


def test_a_key_that_there_is_not_is_told_with_its_file(tmp_path: Path) -> None:
    said = refused(chosen(tmp_path, HEAD + "prefs: pairs.jsonl\nreward_models: [model=coast]\n"))
    assert said.startswith(
        f"{tmp_path}/mine/experiment/tiny.yaml sets prefs, which is no key of rewardloop study; did you mean preferences"
    )


@pytest.mark.parametrize("text", ["ppo={}", "ppo={ }", "bon={}"])
def test_an_empty_mapping_which_would_change_nothing_is_refused_with_what_does(text: str) -> None:
    key = text.partition("=")[0]
    assert refused(["experiment=demo", text]).startswith(f"{key}={{}} would change nothing, since a mapping is merged")
    assert not getattr(composed(StudyJob, ["experiment=demo", f"~{key}"]).job, key)


def test_an_entry_of_a_mapping_may_have_all_its_defaults() -> None:
    assert "mine" in composed(StudyJob, ["experiment=demo", "ppo.mine={}"]).job.ppo


def test_the_page_on_studies_has_every_variable_and_no_other() -> None:
    written = set(re.findall(r"\$\{([a-z_]+)\}", PAGE.read_text(encoding="utf-8")))
    assert written == {item.name for item in fields(StudyJob) if get_type_hints(StudyJob)[item.name] in (str, int, bool)}


def test_the_study_of_the_page_composes_and_fills_its_variables_in(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    study = composed(StudyJob, [*chosen(tmp_path, example), "preferences='my pairs.jsonl'", "benchmark=rows.jsonl"]).job
    assert "data.paths=['my pairs.jsonl']" in study.reward_models[0]
    assert "hooks.rewardbench2='rows.jsonl'" in study.reward_models[0]
