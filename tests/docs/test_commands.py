"""Every command of the README and of docs/ composes: its keys, groups and values are those that a run takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.compose import command
from launch.overrides.command_line import parse
from launch.schema import SCHEMAS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
BLOCK = re.compile(r"^```(?:bash|sh)?\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[str]:
    """The commands of a page's blocks that start one of the jobs; comments and continued lines are taken off."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            text = re.sub(r"\s#\s.*", "", line).strip().removeprefix("$ ")
            words = text.split()
            if (
                words[:1] == ["rewardloop"]
                and words[1:2]
                and words[1] in SCHEMAS
                and words[2:3] not in (["compare"], ["generators"])
                and "..." not in words
            ):
                yield text


CASES = [(page.name, text) for page in PAGES for text in commands(page)]


def test_the_readme_has_commands_to_try() -> None:
    assert len([name for name, _ in CASES if name == "README.md"]) >= 8


@pytest.mark.parametrize(("page", "text"), CASES, ids=[f"{page}-{number}" for number, (page, _) in enumerate(CASES)])
def test_a_command_of_a_page_composes(page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine" / "experiment"
    mine.mkdir(parents=True)
    (mine / "NAME.yaml").write_text("# @package _global_\nreward_models: [data=union]\n")
    _, name, *arguments = shlex.split(text)
    line = parse(SCHEMAS[name], arguments)
    if not line.informative:
        assert command(SCHEMAS[name], line.overrides, multirun=line.multirun).jobs
